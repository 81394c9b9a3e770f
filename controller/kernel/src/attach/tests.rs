//! Hooks that others use as well, and hooks that somebody tampered with.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use oxilium_e2e::require::{Need, require};
use oxilium_model::node_state::{AttachPoint, Hook, ProgramTag};
use oxilium_model::observed::AttachedProgram;
use oxilium_model::plan::Write;

use super::tcx_hook;
use crate::common::{Bed, KernelBed, has_tcx, name_of, on_kernel, run};
use crate::port::{AttachMode, HookKind, HookProgram, Node};
use crate::sys::{self, ProgLoad};
use crate::{KernelConfig, KernelNode};

const HOOK: Hook = Hook::FromContainer;

/// Another party's classifier: `r0 = -1; exit`, the next program decides.
fn foreign() -> OwnedFd {
    let instructions = [
        0xB7, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, //
        0x95, 0, 0, 0, 0, 0, 0, 0,
    ];
    let program = ProgLoad {
        name: "foreign",
        instructions: &instructions,
        license: c"GPL",
        types: None,
    };
    sys::prog_load(&program, &mut []).expect("the verifier has nothing against it")
}

struct Stage<'a> {
    bed: &'a KernelBed,
    node: KernelNode,
    point: AttachPoint,
}

impl<'a> Stage<'a> {
    fn new(bed: &'a KernelBed) -> Self {
        let ifindex = bed.add_device();
        let mut stage = Self {
            bed,
            node: bed.open(),
            point: AttachPoint {
                ifindex,
                hook: HOOK,
            },
        };
        stage.apply(Write::InterfaceInsert {
            ifindex,
            config: oxilium_abi::InterfaceConfig {
                ifindex,
                endpoint: 7,
                ..Default::default()
            },
        });
        stage
    }

    fn tag(&self) -> ProgramTag {
        self.node.programs()[&HOOK]
    }

    fn apply(&mut self, write: Write) {
        self.node
            .apply(&write)
            .unwrap_or_else(|error| unreachable!("{write:?}: {error}"));
    }

    fn attach(&mut self) {
        let (point, program) = (self.point, self.tag());
        self.apply(Write::Attach {
            point,
            endpoint: 7,
            program,
        });
    }

    fn replace(&mut self, endpoint: u16) {
        let (point, program) = (self.point, self.tag());
        self.apply(Write::Replace {
            point,
            endpoint,
            program,
        });
    }

    fn seen(&mut self) -> Option<AttachedProgram> {
        let observed = self.node.observe().expect("readable");
        observed.attachments.get(&self.point).copied()
    }

    fn on_hook(&mut self) -> Vec<HookProgram> {
        let mut programs = self
            .node
            .hooks(&BTreeSet::from([self.point.ifindex]))
            .expect("readable");
        programs.retain(|program| program.hook == HOOK);
        programs
    }

    fn ours(&mut self) -> Vec<HookProgram> {
        let mut programs = self.on_hook();
        programs.retain(|program| program.ours);
        programs
    }

    fn names(&mut self) -> Vec<String> {
        self.on_hook().into_iter().map(|p| p.name).collect()
    }

    fn in_order(&mut self) -> bool {
        let tag = self.tag();
        self.seen()
            == Some(AttachedProgram {
                tag,
                in_order: true,
            })
    }

    fn restart(&mut self, change: impl Fn(&mut KernelConfig)) {
        let mut config = self.bed.config();
        change(&mut config);
        self.node = KernelNode::open(&config).expect("the node opens");
    }

    /// Puts a program before all others, as anybody may.
    fn push_in_front(&self, program: &OwnedFd) -> OwnedFd {
        sys::link_create_tcx(program.as_fd(), self.point.ifindex, tcx_hook(HOOK))
            .expect("a tcx hook takes many")
    }

    fn pin(&self, endpoint: u16) -> std::path::PathBuf {
        self.bed.pins().join(format!("links/{endpoint}_{HOOK}"))
    }
}

fn link(program: &HookProgram) -> u32 {
    match program.kind {
        HookKind::Tcx { link } => link,
        HookKind::Filter { .. } => unreachable!("{program:?} is no link"),
    }
}

#[test]
fn ours_runs_before_those_of_others_which_stay() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        let program = foreign();
        let _first = stage.push_in_front(&program);
        assert_eq!(stage.seen(), None, "it is nobody's of ours");
        stage.attach();
        assert_eq!(stage.names(), ["from_container", "foreign"]);
        assert!(stage.in_order());
        let second_program = foreign();
        let _second = stage.push_in_front(&second_program);
        assert_eq!(stage.names(), ["foreign", "from_container", "foreign"]);
        assert!(
            !stage.in_order(),
            "another one could let a packet pass for good"
        );
        stage.replace(7);
        assert_eq!(stage.names(), ["from_container", "foreign", "foreign"]);
        assert!(stage.in_order());
        let point = stage.point;
        stage.apply(Write::Detach { point });
        assert_eq!(stage.names(), ["foreign", "foreign"]);
        assert!(!stage.pin(7).exists());
    });
}

#[test]
fn a_second_copy_of_ours_is_found_and_goes() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        // The kernel refuses one program twice on a hook: the copy is that of another build.
        let copy = {
            let mut config = bed.config();
            config.event_rate += 1;
            KernelNode::open(&config).expect("the node opens")
        };
        let _second = stage.push_in_front(&copy.programs[&HOOK].fd);
        stage.restart(|_| {});
        assert_eq!(stage.ours().len(), 2);
        assert!(!stage.in_order());
        stage.replace(7);
        assert_eq!(stage.ours().len(), 1);
        assert!(stage.in_order());
    });
}

#[test]
fn a_pin_that_was_removed_comes_back_and_the_link_stays() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        let before = stage.ours();
        // The pin alone holds the link: keep another one as whoever removes it might not.
        let held = sys::obj_get(&stage.pin(7)).expect("it is pinned");
        fs::remove_file(stage.pin(7)).expect("it is there");
        assert!(!stage.in_order());
        stage.replace(7);
        assert!(stage.in_order());
        assert_eq!(stage.ours(), before);
        drop(held);
        assert_eq!(stage.ours(), before);
    });
}

#[test]
fn an_endpoint_with_another_id_takes_its_pin_along() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        let before = stage.ours();
        let ifindex = stage.point.ifindex;
        stage.apply(Write::InterfaceReplace {
            ifindex,
            config: oxilium_abi::InterfaceConfig {
                ifindex,
                endpoint: 9,
                ..Default::default()
            },
        });
        assert!(!stage.in_order());
        stage.replace(9);
        assert!(stage.in_order());
        assert_eq!(stage.ours(), before);
        assert!(stage.pin(9).exists() && !stage.pin(7).exists());
    });
}

#[test]
fn another_build_takes_over_behind_the_same_link_and_the_old_pins_go() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        let old = stage.tag();
        let before = stage.ours();
        stage.restart(|config| config.event_rate += 1);
        assert_ne!(stage.tag(), old);
        assert_eq!(
            stage.seen(),
            Some(AttachedProgram {
                tag: old,
                in_order: true
            })
        );
        assert_eq!(
            stage.node.tidy().expect("readable"),
            0,
            "the old one still runs"
        );
        stage.replace(7);
        assert!(stage.in_order());
        let after = stage.ours();
        assert_eq!(
            link(&after[0]),
            link(&before[0]),
            "the hook was never without"
        );
        assert_ne!(after[0].program_id, before[0].program_id);
        assert_eq!(
            stage.node.tidy().expect("readable"),
            2,
            "two programs of the old build"
        );
        let builds = fs::read_dir(bed.pins().join("programs")).expect("a directory");
        assert_eq!(builds.count(), 1);
        assert!(stage.in_order());
    });
}

#[test]
fn filters_of_others_stay_and_ours_is_replaced_in_place() {
    on_kernel(AttachMode::Tc, |bed| {
        let mut stage = Stage::new(bed);
        let device = name_of(stage.point.ifindex);
        let foreign_program = foreign();
        let pin = bed.root.join("foreign");
        sys::obj_pin(foreign_program.as_fd(), &pin).expect("a name of its own");
        let path = pin.to_str().expect("plain");
        run("tc", &["qdisc", "add", "dev", &device, "clsact"]);
        for preference in ["1", "3"] {
            run(
                "tc",
                &[
                    "filter",
                    "add",
                    "dev",
                    &device,
                    "ingress",
                    "pref",
                    preference,
                    "protocol",
                    "all",
                    "bpf",
                    "direct-action",
                    "object-pinned",
                    path,
                ],
            );
        }
        assert_eq!(stage.seen(), None);
        stage.attach();
        assert!(stage.in_order());
        let before = stage.ours();
        assert_eq!(stage.on_hook().len(), 3);
        stage.restart(|config| config.event_rate += 1);
        stage.replace(7);
        let after = stage.ours();
        assert!(stage.in_order());
        assert_eq!(after[0].kind, before[0].kind);
        assert_ne!(after[0].program_id, before[0].program_id);
        assert_eq!(stage.on_hook().len(), 3);
        let point = stage.point;
        stage.apply(Write::Detach { point });
        assert_eq!(stage.on_hook().len(), 2);
        assert!(stage.ours().is_empty());
        fs::remove_file(pin).expect("it is there");
    });
}

#[test]
fn the_way_of_attachment_can_change_in_both_directions() {
    if !require(&[Need::Root, Need::Bpf]) || !has_tcx() {
        return;
    }
    if !require(&[Need::Tcx]) {
        return;
    }
    on_kernel(AttachMode::Tc, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        for mode in [AttachMode::Tcx, AttachMode::Tc] {
            stage.restart(|config| config.attach_mode = mode);
            assert!(!stage.in_order(), "{mode:?}: it is there in the old way");
            stage.replace(7);
            assert!(stage.in_order(), "{mode:?}");
            let ours = stage.ours();
            assert_eq!(ours.len(), 1, "{mode:?}: {ours:?}");
            assert_eq!(
                matches!(ours[0].kind, HookKind::Tcx { .. }),
                mode == AttachMode::Tcx
            );
            assert_eq!(stage.pin(7).exists(), mode == AttachMode::Tcx);
        }
    });
}

#[test]
fn an_endpoints_pin_on_a_device_that_lives_is_not_taken_away() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        let other = bed.add_device();
        let write = Write::Attach {
            point: AttachPoint {
                ifindex: other,
                hook: HOOK,
            },
            endpoint: 7,
            program: stage.tag(),
        };
        let error = stage.node.apply(&write).expect_err("7 is somewhere else");
        assert!(
            matches!(error, crate::ApplyError::PinInTheWay { other, .. } if other == stage.point.ifindex),
            "{error}"
        );
        assert!(stage.in_order());
    });
}
