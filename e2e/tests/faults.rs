//! The kernel and the disk refuse: what was enforced stays enforced, the agent says what is wrong, and goes on by itself
//! when the cause is gone.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    fs::{self, File},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    thread,
};

use nix::errno::Errno;
use oxilium_e2e::{
    agent::{Agent, Cli, agent_command},
    lab::Lab,
    pod::Pod,
    probe::{self, Outcome},
    process::{command, run},
    require::require,
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    trace::{Domain, Site, Trace},
    wait,
};

/// What fails.
struct Fault {
    name: &'static str,
    errno: Errno,
    which: fn(&Site) -> bool,
    /// What `status` says of it.
    told: &'static str,
    /// Whom the subject answers while it lasts, of who was allowed before and who is to be.
    meanwhile: [Outcome; 2],
}

const FIRST_ALONE: [Outcome; 2] = [Outcome::Answered, Outcome::Silence];
const SECOND_ALONE: [Outcome; 2] = [Outcome::Silence, Outcome::Answered];

const FAULTS: [Fault; 4] = [
    Fault {
        name: "the memory cgroup has no room for map entries",
        errno: Errno::ENOMEM,
        which: |site| site.domain == Domain::Bpf && site.call.starts_with("MAP_UPDATE"),
        told: "no memory for",
        meanwhile: FIRST_ALONE,
    },
    Fault {
        name: "the disk is full",
        errno: Errno::ENOSPC,
        which: |site| site.domain == Domain::Disk,
        told: "No space left on device",
        meanwhile: FIRST_ALONE,
    },
    Fault {
        name: "the disk is broken",
        errno: Errno::EIO,
        which: |site| site.domain == Domain::Disk && site.call == "fsync",
        told: "Input/output error",
        // What was read is enforced while it is brought to disk: its file is there still, and is read again by a restart.
        meanwhile: SECOND_ALONE,
    },
    Fault {
        name: "the kernel is busy",
        errno: Errno::EBUSY,
        which: |site| site.domain == Domain::Bpf,
        told: "just now",
        meanwhile: FIRST_ALONE,
    },
];

/// Starts an agent whose calls can be refused.
fn start(lab: &Lab) -> (Agent, Trace) {
    let trace = Trace::default();
    let mut agent = Agent::launch_traced(lab, &agent_command(lab).unwrap(), &trace).unwrap();
    agent.until_ready().unwrap();
    (agent, trace)
}

/// Who may speak to the subject. The prefix, another one for each, needs a number that is kept on disk.
fn allowing(friend: &str, number: usize) -> String {
    policy(
        "web",
        &format!(
            "  ingress:\n    - fromEndpoints:\n        - matchLabels: {{app: {friend}}}\n    - fromCIDR: [192.0.2.{number}/32]\n"
        ),
    )
}

fn until_told(cli: &Cli, fault: &Fault) {
    wait::until(fault.name, wait::LONG, || {
        let output = cli.output(&["status"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((!output.status.success() && text.contains(fault.told)).then_some(()))
    })
    .unwrap();
}

/// Whom of two the subject answers. Whoever is not allowed hears nothing: a refusal would come from a pod, which was
/// reached.
fn reach(pods: [&Pod; 2], to: SocketAddr) -> [Outcome; 2] {
    pods.map(|from| probe::tcp(&from.netns, to).unwrap())
}

#[test]
fn what_cannot_be_changed_stays_and_is_changed_when_it_can_be() {
    refused_and_granted(&FAULTS);
}

/// By itself, as it takes half a minute: room is expected of other inputs, not of time.
#[test]
fn a_full_policy_map_changes_nothing_until_there_is_room() {
    refused_and_granted(&[Fault {
        name: "the policy map has no room",
        errno: Errno::E2BIG,
        which: |site| site.call.starts_with("MAP_UPDATE_ELEM") && site.object == "ox_policy",
        told: "the policy table is full",
        meanwhile: FIRST_ALONE,
    }]);
}

/// By itself, as it takes half a minute: a permission is expected of a person, not of time.
#[test]
fn what_is_not_permitted_is_done_when_it_is() {
    refused_and_granted(&[Fault {
        name: "somebody took a capability away",
        errno: Errno::EPERM,
        which: |site| site.domain == Domain::Bpf && site.call.starts_with("MAP_UPDATE"),
        told: "not permitted to change",
        meanwhile: FIRST_ALONE,
    }]);
}

/// A file system of a few pages where the agent keeps its state.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(lab: &Lab) -> Self {
        let path = lab.directory().join("state");
        fs::create_dir(&path).unwrap();
        run(command("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(&path))
        .unwrap();
        Self(path)
    }

    /// Takes all that is free.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(command("umount").arg("-l").arg(&self.0)).unwrap();
    }
}

#[test]
fn a_disk_that_is_full_keeps_what_is_enforced_until_it_has_room() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let disk = SmallDisk::mount(&lab);
    let mut agent = Agent::start(&lab).unwrap();
    let pod = |name: &str| lab.pod(name).label("app", name).start().unwrap();
    let (subject, one, two) = (pod("subject"), pod("one"), pod("two"));
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    let to = sockets(&subject, 80)[0];
    lab.manifests.put("web.yaml", &allowing("one", 0)).unwrap();
    agent.until_policy("web", true).unwrap();
    agent.until_ready().unwrap();
    disk.fill();
    lab.manifests.put("web.yaml", &allowing("two", 1)).unwrap();
    let full = Fault {
        name: "the disk is full",
        errno: Errno::ENOSPC,
        which: |_| false,
        told: "No space left on device",
        meanwhile: FIRST_ALONE,
    };
    until_told(agent.cli(), &full);
    assert_eq!(reach([&one, &two], to), FIRST_ALONE);
    // What died with a full disk comes back with it.
    agent.process().crash().unwrap();
    assert_eq!(reach([&one, &two], to), FIRST_ALONE);
    disk.free();
    agent = Agent::start(&lab).unwrap();
    agent.until_policy("web", true).unwrap();
    assert_eq!(reach([&one, &two], to), SECOND_ALONE);
    disk.fill();
    lab.manifests.put("web.yaml", &allowing("one", 2)).unwrap();
    until_told(agent.cli(), &full);
    assert_eq!(reach([&one, &two], to), SECOND_ALONE);
    disk.free();
    wait::until("it goes on by itself", wait::LONG, || {
        Ok((reach([&one, &two], to) == FIRST_ALONE).then_some(()))
    })
    .unwrap();
    agent.until_ready().unwrap();
    drop(agent);
    drop(disk);
}

fn refused_and_granted(faults: &[Fault]) {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let (mut agent, trace) = start(&lab);
    let pod = |name: &str| lab.pod(name).label("app", name).start().unwrap();
    let (subject, one, two) = (pod("subject"), pod("one"), pod("two"));
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    let to = sockets(&subject, 80)[0];
    lab.manifests.put("web.yaml", &allowing("one", 0)).unwrap();
    agent.until_policy("web", true).unwrap();
    let mut friends = [("one", &one), ("two", &two)];
    for (number, fault) in (1..).zip(faults) {
        let [(_, old), (new_name, new)] = friends;
        assert_eq!(reach([old, new], to), FIRST_ALONE, "before: {}", fault.name);
        // Programs that wait for their links are no part of this.
        agent.until_ready().unwrap();
        trace.refuse(fault.errno, fault.which);
        lab.manifests
            .put("web.yaml", &allowing(new_name, number))
            .unwrap();
        until_told(agent.cli(), fault);
        assert_eq!(
            reach([old, new], to),
            fault.meanwhile,
            "meanwhile: {}",
            fault.name
        );
        trace.grant();
        wait::until(fault.name, wait::LONG, || {
            Ok((reach([old, new], to) == SECOND_ALONE).then_some(()))
        })
        .unwrap();
        agent.until_ready().unwrap();
        friends.reverse();
    }
}

#[test]
fn a_pod_is_not_let_loose_while_its_programs_cannot_be_attached() {
    if !require(&NEEDS) {
        return;
    }
    let lab = Lab::new().unwrap();
    let (mut agent, trace) = start(&lab);
    let subject = lab.pod("subject").label("app", "subject").start().unwrap();
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    let to = sockets(&subject, 80)[0];
    let nobody = policy("web", "  ingress:\n    - fromCIDR: [192.0.2.0/32]\n");
    lab.manifests.put("web.yaml", &nobody).unwrap();
    agent.until_policy("web", true).unwrap();
    agent.until_ready().unwrap();
    let fault = Fault {
        name: "no memory for a filter or a link",
        errno: Errno::ENOMEM,
        which: |site| {
            site.call == "LINK_CREATE" || site.domain == Domain::Netlink && site.object == "filter"
        },
        told: "no memory for",
        meanwhile: FIRST_ALONE,
    };
    trace.refuse(fault.errno, fault.which);
    let cli = agent.cli().clone();
    let prepared = lab.pod("late").label("app", "late").prepare().unwrap();
    let late = thread::scope(|scope| {
        let adding = scope.spawn(|| prepared.add());
        until_told(&cli, &fault);
        assert!(
            !adding.is_finished(),
            "the runtime was told that the pod is up"
        );
        trace.grant();
        adding.join().unwrap().unwrap()
    });
    agent.until_ready().unwrap();
    let late = || probe::tcp(&late.netns, to).unwrap();
    assert_eq!(late(), Outcome::Silence);
    // It was policy, and nothing else.
    lab.manifests.remove("web.yaml").unwrap();
    agent.until_policy("web", false).unwrap();
    assert_eq!(late(), Outcome::Answered);
}
