//! Every seed, and every input that once broke a target, through that target again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use oxilium_fuzz::TARGETS;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    // A directory that is not there holds no file.
    let entries = directory.read_dir().into_iter().flatten();
    entries
        .map(|entry| entry.expect("an entry of a directory").path())
        .collect()
}

#[test]
fn every_seed_and_regression_passes() {
    let mut replayed = 0;
    for (name, run) in TARGETS {
        for kind in ["seeds", "regressions"] {
            for file in files(&directory(kind).join(name)) {
                eprintln!("{}", file.display());
                run(&fs::read(&file).expect("a file of this repository"));
                replayed += 1;
            }
        }
    }
    assert!(replayed >= TARGETS.len(), "only {replayed} inputs");
}

#[test]
fn every_target_has_seeds_and_a_program_and_no_input_is_without_a_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    for name in &names {
        assert!(!files(&directory("seeds").join(name)).is_empty(), "{name}");
        assert!(directory("targets").join(format!("{name}.rs")).is_file());
    }
    for kind in ["seeds", "regressions"] {
        for path in files(&directory(kind)) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                names.contains(name.as_str()) || name == "README.md",
                "{kind}/{name}"
            );
        }
    }
}
