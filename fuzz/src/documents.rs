//! Any bytes as a manifest file: read, then every document lowered.
//!
//! Reading ends with documents or with an error that has a place in the text. A policy that is admitted resolves.

use oxilium_manifest::{
    LowerConfig, lower_policy,
    reader::{self, Limits},
};
use oxilium_model::{
    identity::Identities,
    policy::{SubjectView, config::PolicyConfig, resolve},
};

/// Small enough for thousands of runs a second; the reader's own limits are tried by it, too.
const LIMITS: Limits = Limits {
    bytes: 1 << 16,
    depth: 32,
    nodes: 10_000,
};

/// One file.
pub fn run(data: &[u8]) {
    let read = reader::read_lossy(data, &LIMITS);
    if let Some(error) = &read.error {
        let lines = data.split(|byte| b"\n\r".contains(byte)).count();
        let line = usize::try_from(error.position.line).unwrap_or(usize::MAX);
        assert!(
            (1..=lines + 1).contains(&line),
            "the error {error} is on line {line}, but there are {lines}"
        );
        assert!(!error.to_string().is_empty());
        assert!(reader::read(data, &LIMITS).is_err());
    }
    let config = LowerConfig::default();
    let policies: Vec<_> = read
        .documents
        .iter()
        .filter_map(|document| match lower_policy(document, None, &config) {
            Ok(lowered) => Some(lowered.policy),
            Err(errors) => {
                assert!(!errors.is_empty(), "refused without a reason");
                None
            }
        })
        .collect();
    let subject = SubjectView::default();
    let resolved = resolve(
        &policies,
        &Identities::default(),
        &subject,
        &PolicyConfig::default(),
    );
    if resolved.error.is_some() {
        assert!(
            resolved.table.is_empty(),
            "an error that leaves something allowed"
        );
    }
}
