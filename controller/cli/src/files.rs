//! Manifests read from a directory here, for an agent that may not see it, or for none.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oxilium_api::ManifestFile;
use oxilium_manifest::directory::is_manifest;

/// All manifests of a directory (not of those below it), or one file.
pub(crate) fn read(path: &Path) -> Result<Vec<ManifestFile>> {
    let shown = path.display();
    let file = |path: &Path| -> Result<ManifestFile> {
        let content =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok(ManifestFile {
            name: name.to_string_lossy().into_owned(),
            content,
        })
    };
    if path.is_file() {
        return Ok(vec![file(path)?]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {shown}"))? {
        let path = entry
            .with_context(|| format!("cannot read {shown}"))?
            .path();
        let name = path.file_name().map(|name| name.to_string_lossy());
        if path.is_file() && name.is_some_and(|name| is_manifest(&name)) {
            files.push(file(&path)?);
        }
    }
    ensure!(
        !files.is_empty(),
        "{shown} has no manifests: files that end in .yaml, .yml or .json"
    );
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}
