//! Hooks that others use as well, and hooks that somebody tampered with.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use oxilium_e2e::require::{Need, require};
use oxilium_e2e::wire::{Mac, Tap};
use oxilium_e2e::{packet, process, wait};
use oxilium_model::node_state::{AttachPoint, Hook, ProgramTag};
use oxilium_model::observed::{AttachedProgram, Place};
use oxilium_model::plan::Write;

use super::tcx_hook;
use crate::common::{Bed, KernelBed, has_tcx, name_of, on_kernel, run};
use crate::count::Target;
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
            staged: false,
            point,
            endpoint: 7,
            program,
        });
    }

    fn stage(&mut self) {
        let (point, program) = (self.point, self.tag());
        self.apply(Write::Attach {
            point,
            endpoint: 7,
            program,
            staged: true,
        });
    }

    /// Where ours is, if it is there.
    fn place(&mut self) -> Option<Place> {
        self.seen().map(|program| program.place)
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
                place: Place::Settled,
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
                place: Place::Settled
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
            staged: false,
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

fn is_filter(program: &HookProgram) -> bool {
    matches!(program.kind, HookKind::Filter { .. })
}

#[test]
fn a_staged_program_is_a_filter_and_settles_into_a_link() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.stage();
        assert!(is_filter(&stage.ours()[0]), "{:?}", stage.ours());
        assert_eq!(stage.place(), Some(Place::Staged));
        let before = stage.node.writes();
        stage.replace(7);
        assert!(stage.in_order());
        let ours = stage.ours();
        assert!(ours.len() == 1 && !is_filter(&ours[0]), "{ours:?}");
        assert!(stage.pin(7).exists());
        let mut calls = Vec::new();
        for ((target, action), count) in stage.node.writes() {
            let earlier = before.get(&(target, action)).map_or(0, |count| count.calls);
            // Another instance of the program is loaded once for all.
            let made = count.calls - earlier;
            if made > 0 && matches!(target, Target::Links | Target::Filters) {
                calls.push(format!("{target} {action} {made}"));
            }
        }
        assert_eq!(
            calls,
            [
                "links create 1",
                "links replace 1",
                "links pin 1",
                "filters remove 1"
            ]
        );
    });
}

#[test]
fn nothing_is_staged_behind_programs_of_others() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        let program = foreign();
        let first = stage.push_in_front(&program);
        stage.stage();
        assert_eq!(stage.names(), ["from_container", "foreign"]);
        assert!(stage.in_order());
        let point = stage.point;
        stage.apply(Write::Detach { point });
        drop(first);

        let mut stage = Stage::new(bed);
        stage.stage();
        assert_eq!(stage.place(), Some(Place::Staged));
        let _second = stage.push_in_front(&program);
        assert_eq!(
            stage.place(),
            Some(Place::Misplaced),
            "the other could let a packet pass for good"
        );
        stage.replace(7);
        assert_eq!(stage.names(), ["from_container", "foreign"]);
        assert!(stage.in_order());
    });
}

#[test]
fn each_packet_is_judged_once_while_ours_moves_from_a_filter_to_a_link_and_back() {
    if !require(&[Need::Root, Need::Bpf]) || !has_tcx() {
        return;
    }
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::of_pod(bed);
        let tap = Tap::open_here("pod0").expect("a packet socket");
        let frame = asks_for_neighbour();
        let done = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            // Also when this fails.
            let stop = Stop(&done);
            stage.stage();
            let sender = scope.spawn(|| {
                let mut sent = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    tap.send(&frame).expect("the link is up");
                    sent += 1;
                }
                sent
            });
            for mode in [AttachMode::Tcx, AttachMode::Tc, AttachMode::Tcx] {
                if mode == AttachMode::Tc || stage.place() != Some(Place::Staged) {
                    stage.restart(|config| config.attach_mode = mode);
                }
                stage.replace(7);
                assert!(stage.in_order(), "{mode:?}");
            }
            drop(stop);
            sender.join().expect("it sends")
        });
        let judged = |stage: &mut Stage<'_>| {
            let counters = stage.node.counters().expect("readable");
            assert!(
                counters.keys().all(|(_, reason)| *reason == 0),
                "{counters:?}"
            );
            counters
                .values()
                .map(|counter| counter.packets)
                .sum::<u64>()
        };
        // On a busy machine the queue of the other end is full at times: what was dropped there met nobody.
        let arrived = sent - dropped_by("pod0");
        wait::until("all frames are judged", wait::LONG, || {
            Ok((judged(&mut stage) >= arrived).then_some(()))
        })
        .expect("every frame meets a program");
        assert_eq!(judged(&mut stage), arrived);
    });
}

/// Frames that the other end of a veth had no room for.
fn dropped_by(veth: &str) -> u64 {
    let mut command = process::command("ip");
    command.args(["-json", "-statistics", "link", "show", "dev", veth]);
    let text = process::run(&mut command).expect("the device is there");
    let links: serde_json::Value = serde_json::from_str(&text).expect("a list of links");
    links[0]["stats64"]["tx"]["dropped"]
        .as_u64()
        .expect("statistics of what was sent")
}

#[test]
fn the_only_pin_of_a_link_that_lives_stays_although_it_was_half_set() {
    on_kernel(AttachMode::Tcx, |bed| {
        let mut stage = Stage::new(bed);
        stage.attach();
        let half_set = stage.pin(7).with_file_name(format!("new_7_{HOOK}"));
        fs::rename(stage.pin(7), &half_set).expect("it is there");
        // Nobody wants the interface any more, so that nobody puts its pins in order.
        assert_eq!(stage.node.tidy().expect("readable"), 0);
        assert_eq!(stage.ours().len(), 1);
        assert!(half_set.exists());
        // And no other device of the endpoint's id takes its place.
        let other = Write::Attach {
            point: AttachPoint {
                ifindex: bed.add_device(),
                hook: HOOK,
            },
            endpoint: 7,
            program: stage.tag(),
            staged: false,
        };
        let refused = stage.node.apply(&other).expect_err("7 is somewhere else");
        assert!(
            matches!(refused, crate::ApplyError::PinInTheWay { .. }),
            "{refused}"
        );
        assert_eq!(stage.ours().len(), 1);
        // Put in order, it has the pin that it should have.
        stage.replace(7);
        assert!(stage.in_order() && !half_set.exists());
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const POD_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

/// A frame that every pod may send.
fn asks_for_neighbour() -> Vec<u8> {
    let pod = (Mac(POD_MAC), POD_ADDRESS);
    let asks = packet::arp(1, pod, (Mac([0; 6]), Ipv4Addr::new(10, 0, 0, 1)));
    packet::ethernet(Mac([0xFF; 6]), Mac(POD_MAC), 0x0806, &asks)
}

impl<'a> Stage<'a> {
    /// A pod that sends nothing by itself.
    fn of_pod(bed: &'a KernelBed) -> Self {
        let mut stage = Self::new(bed);
        let device = name_of(stage.point.ifindex);
        run(
            "ip",
            &["link", "set", "pod0", "address", "02:00:00:00:00:07"],
        );
        for end in [device.as_str(), "pod0"] {
            run("ip", &["link", "set", end, "addrgenmode", "none"]);
            run("ip", &["link", "set", end, "up"]);
        }
        let ifindex = stage.point.ifindex;
        let mut config = oxilium_abi::InterfaceConfig {
            ifindex,
            endpoint: 7,
            mac: POD_MAC,
            ..Default::default()
        };
        config.ipv4[0] = POD_ADDRESS.octets();
        stage.apply(Write::InterfaceReplace { ifindex, config });
        stage
    }
}
