//! The trace that the chaos runs trust: it sees every write, and a death is where it says.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
};

use oxilium_e2e::{
    process::Process,
    require::{Need, require},
    trace::{Deadly, Edge, Trace},
    wait,
};

/// A directory of this test's own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("oxilium-trace-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A shell that makes the files a, b, c and writes into each; no other process takes part.
fn writer(directory: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "cd \"$0\" && echo 1 > a && echo 2 > b && echo 3 > c"])
        .arg(directory);
    command
}

fn files(directory: &Path) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            format!("{name}:{}", fs::read_to_string(path).unwrap().trim())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_process_dies_on_the_side_of_the_write_that_it_was_told() {
    if !require(&[Need::Root]) {
        return;
    }
    // Each file is two writes: it is opened, then filled.
    for (nth, edge, expected) in [
        (1, Edge::Before, &[][..]),
        (1, Edge::After, &["a:"]),
        (2, Edge::Before, &["a:"]),
        (2, Edge::After, &["a:1"]),
        (5, Edge::Before, &["a:1", "b:2"]),
        (6, Edge::Before, &["a:1", "b:2", "c:"]),
        (6, Edge::After, &["a:1", "b:2", "c:3"]),
        (7, Edge::Before, &["a:1", "b:2", "c:3"]),
    ] {
        let directory = Directory::new(&format!("{nth}-{edge:?}"));
        let trace = Trace::default();
        trace.kill_at(nth, edge);
        let log = directory.0.join("writer.log");
        let mut process =
            Process::spawn_traced("writer", &writer(&directory.0), log, trace.clone()).unwrap();
        let status = process.wait(wait::LONG).unwrap();
        assert_eq!(files(&directory.0), expected, "{edge:?} {nth}");
        let signal = (nth <= 6).then_some(9);
        assert_eq!(status.signal(), signal, "{edge:?} {nth}: {status}");
        assert_eq!(trace.death().is_some(), nth <= 6, "{edge:?} {nth}");
    }
}

#[test]
fn a_process_dies_at_the_first_write_of_the_site_that_it_was_told() {
    if !require(&[Need::Root]) {
        return;
    }
    for (edge, expected) in [(Edge::Before, &["a:1"][..]), (Edge::After, &["a:1", "b:"])] {
        let directory = Directory::new(&format!("site-{edge:?}"));
        let trace = Trace::default();
        trace.kill_where(
            Deadly::Site(|site| site.object.rsplit('/').next() == Some("b")),
            edge,
        );
        let log = directory.0.join("writer.log");
        let mut process =
            Process::spawn_traced("writer", &writer(&directory.0), log, trace.clone()).unwrap();
        let status = process.wait(wait::LONG).unwrap();
        assert_eq!(status.signal(), Some(9), "{edge:?}: {status}");
        assert_eq!(files(&directory.0), expected, "{edge:?}");
        assert_eq!(trace.death().unwrap().edge, edge);
    }
}

#[test]
fn every_write_is_seen_with_its_result() {
    if !require(&[Need::Root]) {
        return;
    }
    let directory = Directory::new("all");
    let trace = Trace::default();
    let log = directory.0.join("writer.log");
    let mut process =
        Process::spawn_traced("writer", &writer(&directory.0), log, trace.clone()).unwrap();
    assert!(process.wait(wait::LONG).unwrap().success());
    let seen: Vec<String> = trace
        .writes(0)
        .iter()
        .map(|write| {
            let object = write.site.object.rsplit('/').next().unwrap();
            format!(
                "{} {object} {}",
                write.site.call,
                write.result.unwrap() >= 0
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            "open a true",
            "write a true",
            "open b true",
            "write b true",
            "open c true",
            "write c true"
        ]
    );
}
