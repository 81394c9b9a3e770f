//! What is pinned: taken over, refused, set again.

use std::fs;
use std::path::PathBuf;

use oxilium_abi::{NodeWord, map};
use oxilium_model::node_state::Hook;

use crate::common::{json, on_kernel, run};
use crate::port::{AttachMode, Node};
use crate::{KernelConfig, KernelNode, LoadError};

#[test]
fn a_pinned_map_of_another_layout_is_refused_and_left_as_it_is() {
    on_kernel(AttachMode::Auto, |bed| {
        drop(bed.open());
        let path = bed.pins().join(map::CT4);
        let text = path.to_str().expect("plain");
        fs::remove_file(&path).expect("it is there");
        let create = |kind: &str, key: &str, value: &str, entries: &str, flags: &str| {
            run(
                "bpftool",
                &[
                    "map", "create", text, "type", kind, "key", key, "value", value, "entries",
                    entries, "name", "other", "flags", flags,
                ],
            );
        };
        let cases = [
            ("type", "hash", "16", "64", "1024", "0"),
            ("key size", "lru_hash", "20", "64", "1024", "0"),
            ("value size", "lru_hash", "16", "56", "1024", "0"),
            ("flags", "lru_hash", "16", "64", "1024", "2"),
        ];
        for (wrong, kind, key, value, entries, flags) in cases {
            create(kind, key, value, entries, flags);
            let before = json("bpftool", &["-j", "map", "show", "pinned", text])["id"].clone();
            let error = KernelNode::open(&bed.config()).expect_err("it is not ours");
            assert!(
                matches!(&error, LoadError::Layout { field, .. } if *field == wrong),
                "{wrong}: {error}"
            );
            let after = json("bpftool", &["-j", "map", "show", "pinned", text])["id"].clone();
            assert_eq!(after, before);
            fs::remove_file(&path).expect("it is there");
        }
        bed.open();
    });
}

#[test]
fn the_conntrack_seed_is_random_and_stays() {
    on_kernel(AttachMode::Auto, |bed| {
        let seed = |node: &KernelNode| {
            node.tables
                .node_words
                .get(&(NodeWord::CtSeed as u32))
                .expect("readable")
        };
        let first = seed(&bed.open());
        assert_ne!(first, Some(0));
        assert_eq!(seed(&bed.open()), first);
        fs::remove_dir_all(bed.root.join("oxilium")).expect("ours");
        assert_ne!(seed(&bed.open()), first, "other maps, another seed");
    });
}

#[test]
fn a_damaged_pin_of_a_program_is_replaced() {
    on_kernel(AttachMode::Auto, |bed| {
        let node = bed.open();
        let tag = node.programs()[&Hook::FromContainer];
        let directory = bed.pins().join("programs").join(tag.to_string());
        let pin = directory.join(Hook::FromContainer.program());
        fs::remove_file(&pin).expect("it is there");
        // Something else under that name: a map.
        let map = bed.pins().join(map::NODE_WORDS);
        run(
            "bpftool",
            &[
                "map",
                "pin",
                "pinned",
                map.to_str().expect("plain"),
                pin.to_str().expect("plain"),
            ],
        );
        drop(node);
        let again = bed.open();
        assert_eq!(again.programs()[&Hook::FromContainer], tag);
        let told = json(
            "bpftool",
            &["-j", "prog", "show", "pinned", pin.to_str().expect("plain")],
        );
        assert_eq!(told["name"], Hook::FromContainer.program());
    });
}

#[test]
fn pins_that_others_removed_come_back_and_a_foreign_map_in_their_place_is_told() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut node = bed.open();
        let program = bed
            .pins()
            .join("programs")
            .join(node.programs()[&Hook::ToContainer].to_string())
            .join(Hook::ToContainer.program());
        let policy = bed.pins().join(map::POLICY);
        fs::remove_file(&policy).expect("it is there");
        fs::remove_file(&program).expect("it is there");
        assert_eq!(node.tidy().expect("writable"), 2);
        assert!(policy.exists() && program.exists());
        assert_eq!(node.restored_pins(), [policy.clone(), program]);
        assert_eq!(node.tidy().expect("writable"), 0);
        assert_eq!(node.restored_pins(), <[PathBuf; 0]>::default());
        let programs = node.programs();
        drop(node);
        let mut node = bed.open();
        assert_eq!(node.programs(), programs);
        assert!(node.writes().is_empty());
        fs::remove_file(&policy).expect("it is there");
        let other = bed.pins().join(map::IPCACHE);
        let plain = |path: &PathBuf| path.to_str().expect("plain").to_owned();
        run(
            "bpftool",
            &["map", "pin", "pinned", &plain(&other), &plain(&policy)],
        );
        let error = node.tidy().expect_err("that is not the policy map");
        assert!(error.to_string().contains("ox_policy"), "{error}");
    });
}

#[test]
fn what_one_agent_has_open_no_other_opens_wherever_the_first_has_its_state() {
    on_kernel(AttachMode::Auto, |bed| {
        let mut config = bed.config();
        config.exclusive = true;
        let mut first = KernelNode::open(&config).expect("the node opens");
        let refused = |config: &KernelConfig| {
            let error = KernelNode::open(config).expect_err("it is held");
            assert!(matches!(error, LoadError::Held { .. }), "{error}");
        };
        refused(&config);
        // All of it is made again, with another directory in the place of the one that was locked.
        let name = bed.root.file_name().expect("a name").to_string_lossy();
        let aside = bed.root.with_file_name(format!("{name}-aside"));
        fs::rename(&bed.root, &aside).expect("it is there");
        fs::create_dir(&bed.root).expect("its name is free");
        first.tidy().expect("all can be made again");
        let restored = first.restored_pins();
        assert_eq!(restored.first(), Some(&bed.pins()), "{restored:?}");
        assert!(
            restored.contains(&bed.pins().join(map::POLICY)),
            "{restored:?}"
        );
        refused(&config);
        fs::remove_dir_all(&aside).expect("it is ours");
        drop(first);
        KernelNode::open(&config).expect("nobody has it any more");
    });
}
