//! Manifests with positions: YAML to admitted objects, with errors that name file, line and field.
