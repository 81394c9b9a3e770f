//! A node's two directories, before and after.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}"#;

/// The seed's list: flannel, then Cilium's plugin in its old form.
const GENERIC_VETH: &str = r#"{
  "name": "generic-veth",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "cilium-cni"}
  ]
}"#;

struct Node {
    root: tempfile::TempDir,
    what: Installation,
}

impl Node {
    fn new(configurations: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let [programs, directory] = ["bin", "net.d"].map(|name| root.path().join(name));
        fs::create_dir(&programs).unwrap();
        fs::create_dir(&directory).unwrap();
        let program = root.path().join("oxilium-cni");
        fs::write(&program, "the plugin").unwrap();
        for (name, text) in configurations {
            fs::write(directory.join(name), text).unwrap();
        }
        let what = Installation {
            program,
            directories: Directories {
                programs,
                configurations: directory,
            },
            source: Source::Chain { target: None },
            exclusive: true,
            stanza: Stanza::default(),
        };
        Self { root, what }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.root.path().join(name)).unwrap()
    }

    /// Names in both directories.
    fn names(&self) -> Vec<String> {
        let Directories {
            programs,
            configurations,
        } = &self.what.directories;
        let mut names: Vec<String> = [programs, configurations]
            .iter()
            .flat_map(|directory| fs::read_dir(directory).unwrap())
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                path.strip_prefix(self.root.path())
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        names.sort();
        names
    }

    fn done(&self, done: Done) -> Vec<String> {
        let root = format!("{}/", self.root.path().display());
        done.into_iter()
            .map(|line| line.replace(&root, ""))
            .collect()
    }

    /// What must not change when nothing is to be done.
    fn inodes(&self) -> Vec<(String, u64)> {
        let names = self.names().into_iter();
        names
            .map(|name| {
                let inode = fs::symlink_metadata(self.root.path().join(&name))
                    .unwrap()
                    .ino();
                (name, inode)
            })
            .collect()
    }
}

#[test]
fn the_plugin_is_chained_behind_the_main_one_and_others_are_put_aside() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL), ("readme.txt", "x")]);
    let done = install(&node.what).unwrap();
    insta::assert_snapshot!(node.done(done).join("\n"), @r"
    wrote bin/oxilium-cni
    linked bin/cilium-cni to oxilium-cni
    wrote net.d/05-cilium.conflist
    put net.d/10-flannel.conflist aside as net.d/10-flannel.conflist.cilium_bak
    ");
    insta::assert_snapshot!(node.file("net.d/05-cilium.conflist"), @r#"
    {
      "name": "cbr0",
      "cniVersion": "0.3.1",
      "plugins": [
        {
          "type": "flannel",
          "delegate": {
            "hairpinMode": true,
            "isDefaultGateway": true
          }
        },
        {
          "type": "portmap",
          "capabilities": {
            "portMappings": true
          }
        },
        {
          "type": "cilium-cni",
          "chaining-mode": "generic-veth",
          "enable-debug": false
        }
      ]
    }
    "#);
    assert_eq!(node.file("bin/cilium-cni"), "the plugin");
}

#[test]
fn a_second_run_writes_nothing() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    install(&node.what).unwrap();
    let before = node.inodes();
    assert_eq!(install(&node.what).unwrap(), Done::new());
    assert_eq!(node.inodes(), before);
}

#[test]
fn a_main_plugin_that_writes_its_configuration_anew_is_followed() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    install(&node.what).unwrap();
    let changed = FLANNEL.replace("hairpinMode\": true", "hairpinMode\": false");
    let written = node
        .what
        .directories
        .configurations
        .join("10-flannel.conflist");
    fs::write(&written, changed).unwrap();
    install(&node.what).unwrap();
    assert!(
        node.file("net.d/05-cilium.conflist")
            .contains("\"hairpinMode\": false")
    );
    assert!(!written.exists());
}

#[test]
fn a_new_version_of_the_plugin_replaces_the_old_one_while_that_runs() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    install(&node.what).unwrap();
    let installed = node.what.directories.programs.join("oxilium-cni");
    let running = fs::File::open(&installed).unwrap();
    fs::write(&node.what.program, "a newer plugin").unwrap();
    install(&node.what).unwrap();
    assert_eq!(node.file("bin/oxilium-cni"), "a newer plugin");
    assert_eq!(std::io::read_to_string(running).unwrap(), "the plugin");
    assert_eq!(fs::metadata(&installed).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn a_whole_configuration_is_taken_as_it_is_and_must_call_the_plugin() {
    let mut node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    let given = node.root.path().join("given");
    node.what.source = Source::File(given.clone());
    node.what.exclusive = false;
    fs::write(&given, GENERIC_VETH).unwrap();
    install(&node.what).unwrap();
    let written: serde_json::Value =
        serde_json::from_str(&node.file("net.d/05-cilium.conflist")).unwrap();
    assert_eq!(
        written,
        serde_json::from_str::<serde_json::Value>(GENERIC_VETH).unwrap()
    );
    assert!(
        node.names()
            .contains(&"net.d/10-flannel.conflist".to_owned())
    );

    fs::write(&given, FLANNEL).unwrap();
    let error = install(&node.what).unwrap_err().to_string();
    assert!(error.contains("pods would have no policy"), "{error}");
    // What was there still is.
    assert!(node.file("net.d/05-cilium.conflist").contains("cilium-cni"));
}

#[test]
fn a_configuration_that_is_somebody_else_s_business_is_left_alone() {
    let mut node = Node::new(&[("00-mine.conflist", GENERIC_VETH)]);
    node.what.source = Source::Leave;
    install(&node.what).unwrap();
    assert_eq!(
        node.names(),
        [
            "bin/cilium-cni",
            "bin/oxilium-cni",
            "net.d/00-mine.conflist"
        ]
    );
}

#[test]
fn the_network_that_is_named_is_chained_to() {
    let other = FLANNEL.replace("cbr0", "other");
    let mut node = Node::new(&[("10-a.conflist", FLANNEL), ("20-b.conflist", &other)]);
    node.what.source = Source::Chain {
        target: Some("other".into()),
    };
    install(&node.what).unwrap();
    assert!(
        node.file("net.d/05-cilium.conflist")
            .contains("\"name\": \"other\"")
    );
    node.what.source = Source::Chain {
        target: Some("absent".into()),
    };
    let error = install(&node.what).unwrap_err().to_string();
    assert!(error.contains("\"absent\""), "{error}");
}

#[test]
fn a_single_plugin_s_configuration_becomes_a_list() {
    let single = r#"{"cniVersion": "1.0.0", "name": "mynet", "type": "bridge", "bridge": "cni0"}"#;
    let node = Node::new(&[("10-bridge.conf", single)]);
    install(&node.what).unwrap();
    insta::assert_snapshot!(node.file("net.d/05-cilium.conflist"), @r#"
    {
      "cniVersion": "1.0.0",
      "name": "mynet",
      "plugins": [
        {
          "type": "bridge",
          "bridge": "cni0"
        },
        {
          "type": "cilium-cni",
          "chaining-mode": "generic-veth",
          "enable-debug": false
        }
      ]
    }
    "#);
}

#[test]
fn without_a_main_plugin_nothing_is_written_but_the_plugin() {
    for configurations in [&[][..], &[("10-broken.conflist", "{")]] {
        let node = Node::new(configurations);
        let error = install(&node.what).unwrap_err();
        assert!(
            matches!(error, InstallError::NoMainPlugin { .. }),
            "{error}"
        );
        assert!(
            !node
                .names()
                .contains(&"net.d/05-cilium.conflist".to_owned())
        );
    }
}

#[test]
fn what_a_killed_run_left_is_in_nobody_s_way() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    let left = node
        .what
        .directories
        .configurations
        .join(".05-cilium.conflist.oxilium-new");
    fs::write(&left, "{").unwrap();
    install(&node.what).unwrap();
    assert!(!left.exists());
    assert!(node.file("net.d/05-cilium.conflist").contains("cilium-cni"));
}

#[test]
fn uninstalling_puts_everything_back() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL), ("20-x.conf", "{}")]);
    let alias = node.what.directories.programs.join("cilium-cni");
    fs::write(&alias, "cilium's own").unwrap();
    let before = node.names();
    install(&node.what).unwrap();
    assert_eq!(node.file("bin/cilium-cni"), "the plugin");
    uninstall(&node.what.directories, true).unwrap();
    assert_eq!(node.names(), before);
    assert_eq!(node.file("net.d/10-flannel.conflist"), FLANNEL);
    assert_eq!(node.file("bin/cilium-cni"), "cilium's own");
    assert_eq!(
        uninstall(&node.what.directories, true).unwrap(),
        Done::new()
    );
}

#[test]
fn pods_that_are_there_can_be_removed_after_uninstalling() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    install(&node.what).unwrap();
    uninstall(&node.what.directories, false).unwrap();
    assert_eq!(
        node.names(),
        [
            "bin/cilium-cni",
            "bin/oxilium-cni",
            "net.d/10-flannel.conflist"
        ]
    );
}

#[test]
fn a_configuration_that_its_owner_wrote_anew_is_not_overwritten_by_the_old_one() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    install(&node.what).unwrap();
    let anew = node
        .what
        .directories
        .configurations
        .join("10-flannel.conflist");
    fs::write(&anew, "anew").unwrap();
    uninstall(&node.what.directories, false).unwrap();
    assert_eq!(node.file("net.d/10-flannel.conflist"), "anew");
    assert!(!node.names().iter().any(|name| name.ends_with("cilium_bak")));
}

/// What Cilium writes: not as we would.
const OF_CILIUM: &str = r#"{"cniVersion": "0.3.1", "name": "cilium", "plugins": [{"type": "cilium-cni", "log-file": "/var/run/cilium/cilium-cni.log"}]}"#;

#[test]
fn a_configuration_that_had_our_name_comes_back_and_stays() {
    let node = Node::new(&[
        ("05-cilium.conflist", OF_CILIUM),
        ("10-flannel.conflist", FLANNEL),
    ]);
    let before = node.names();
    for _ in 0..2 {
        install(&node.what).unwrap();
        let ours = node.file("net.d/05-cilium.conflist");
        assert!(ours.contains("\"cbr0\""), "chained to flannel: {ours}");
    }
    for _ in 0..2 {
        uninstall(&node.what.directories, true).unwrap();
        assert_eq!(node.names(), before);
        assert_eq!(node.file("net.d/05-cilium.conflist"), OF_CILIUM);
    }
}

#[test]
fn a_first_run_that_was_killed_before_it_wrote_its_configuration_is_undone() {
    let node = Node::new(&[("05-cilium.conflist", OF_CILIUM)]);
    let directory = &node.what.directories.configurations;
    let ours = directory.join("05-cilium.conflist");
    // The name that it is kept under is there, and its own is not another file's yet.
    fs::hard_link(&ours, directory.join("05-cilium.conflist.cilium_bak")).unwrap();
    uninstall(&node.what.directories, true).unwrap();
    assert_eq!(node.names(), ["net.d/05-cilium.conflist"]);
    assert_eq!(node.file("net.d/05-cilium.conflist"), OF_CILIUM);
}

#[test]
fn what_somebody_else_put_aside_stays_aside() {
    let node = Node::new(&[
        ("05-cilium.conflist", OF_CILIUM),
        ("10-flannel.conflist.cilium_bak", FLANNEL),
    ]);
    let before = node.names();
    assert_eq!(
        uninstall(&node.what.directories, true).unwrap(),
        Done::new()
    );
    assert_eq!(node.names(), before);
}

#[test]
fn what_killed_runs_left_half_written_goes() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    let before = node.names();
    install(&node.what).unwrap();
    let Directories {
        programs,
        configurations,
    } = &node.what.directories;
    fs::write(programs.join(".oxilium-cni.oxilium-new"), "the pl").unwrap();
    fs::write(
        configurations.join(".05-cilium.conflist.oxilium-new"),
        "{\"na",
    )
    .unwrap();
    uninstall(&node.what.directories, true).unwrap();
    assert_eq!(node.names(), before);
}

#[test]
fn a_link_that_had_the_plugin_s_name_comes_back() {
    let node = Node::new(&[("10-flannel.conflist", FLANNEL)]);
    let alias = node.what.directories.programs.join("cilium-cni");
    std::os::unix::fs::symlink("cilium-cni-1.18", &alias).unwrap();
    install(&node.what).unwrap();
    assert_eq!(node.file("bin/cilium-cni"), "the plugin");
    uninstall(&node.what.directories, true).unwrap();
    assert_eq!(
        fs::read_link(&alias).unwrap().to_str(),
        Some("cilium-cni-1.18")
    );
    assert_eq!(
        node.names(),
        ["bin/cilium-cni", "net.d/10-flannel.conflist"]
    );
}
