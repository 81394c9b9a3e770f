//! `policy resolve --vectors FILE`: the engine's answers to cases whose right answers are known.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use oxilium_manifest::vectors::{IdentitySets, VectorFile};
use serde::de::DeserializeOwned;

use crate::output::{Out, Verdict};

pub(crate) fn resolve<W: Write>(path: &Path, out: &mut Out<W>) -> Result<Verdict> {
    let file: VectorFile = read(path)?;
    let beside = path.with_file_name("identity-sets.json");
    let needs_sets = file.cases.iter().any(|case| case.doc.is_none());
    let sets: IdentitySets = if needs_sets || beside.exists() {
        read(&beside)?
    } else {
        IdentitySets::new()
    };
    for case in &file.cases {
        let answer = case.answer(&sets)?;
        out.line(&serde_json::to_string(&answer)?)?;
    }
    Ok(Verdict::Yes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is no file of this kind", path.display()))
}
