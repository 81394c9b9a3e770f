//! Pods, addresses, interfaces and agents that come, go and come back.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use oxilium_e2e::{
    agent::{Agent, Cli, agent_command},
    lab::Lab,
    netns::Netns,
    packet::{self, tcp_flag},
    pod::Pod,
    probe::{self, Outcome},
    process::{Process, find_program},
    require::{Need, require},
    scenario::{NEEDS, Scenario, policy, sockets},
    server::{self, TcpServer},
    wait,
    wire::{Tap, contains, parse_mac},
};
use serde_json::{Value, json};

const FROM_FRIEND: &str =
    "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";

fn pod(lab: &Lab, name: &str) -> Pod {
    lab.pod(name).label("app", name).start().unwrap()
}

fn tcp(from: &Netns, to: &Pod, port: u16) -> Outcome {
    let [v4, v6] = sockets(to, port).map(|address| probe::tcp(from, address).unwrap());
    assert_eq!(v4, v6, "the families differ");
    v4
}

#[test]
fn an_heir_of_an_address_inherits_no_flow() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let lab = &scenario.lab;
    let address = Ipv4Addr::new(10, 244, 1, 99);
    let friend = pod(lab, "friend");
    // The friend may reach the heir on UDP 9 and nowhere else; the former owner is not selected at all.
    let body =
        format!("{FROM_FRIEND}      toPorts:\n        - ports: [{{port: \"9\", protocol: UDP}}]\n");
    scenario.enforce("heir", &policy("heir", &body)).unwrap();

    let former = lab.pod("former").address(address).start().unwrap();
    let service = TcpServer::echo(&former.netns, 80).unwrap();
    let connection = server::connect(&friend.netns, (address, 80).into(), wait::LONG).unwrap();
    let port = connection.local_addr().unwrap().port();
    drop(service);
    former.delete().unwrap();

    let heir = lab
        .pod("subject")
        .label("app", "subject")
        .address(address)
        .start()
        .unwrap();
    let (send, see) = (
        Tap::open(&friend.netns, "eth0").unwrap(),
        Tap::open(&heir.netns, "eth0").unwrap(),
    );
    let (here, there) = (IpAddr::from(friend.ipv4), IpAddr::from(address));
    let old = packet::tcp(
        (here, port),
        (there, 80),
        tcp_flag::ACK,
        (9, 9),
        b"for the former",
    );
    send.send(&old.frame(heir.mac, friend.mac)).unwrap();
    let marker = packet::udp((here, 1), (there, 9), b"the marker");
    send.send(&marker.frame(heir.mac, friend.mac)).unwrap();
    let before = see
        .until(wait::LONG, |frame| contains(frame, b"the marker"))
        .unwrap();
    assert!(
        !before
            .iter()
            .any(|frame| contains(frame, b"for the former"))
    );
}

#[test]
fn an_interface_with_a_former_index_is_judged_as_the_pod_it_belongs_to() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let lab = &scenario.lab;
    let friend = pod(lab, "friend");
    let former = pod(lab, "former");
    let index = former.host_ifindex().unwrap();
    let former_address = former.ipv4;
    former.delete().unwrap();

    // What a plugin before ours would make, but with the index that has just become free.
    let prepared = lab.pod("heir").label("app", "heir").prepare().unwrap();
    let worker = &lab.worker.netns;
    worker
        .ip(&format!(
            "link add vethheir index {index} type veth peer name eth0 netns {}",
            prepared.netns.name()
        ))
        .unwrap();
    worker.ip("link set vethheir master cni0 up").unwrap();
    prepared.netns.ip("link set eth0 up").unwrap();
    prepared
        .netns
        .ip("addr add 10.244.1.98/24 dev eth0")
        .unwrap();
    prepared
        .netns
        .ip("addr add fd00:10:244:1::98/64 dev eth0")
        .unwrap();
    prepared.netns.until_ipv6("eth0").unwrap();
    let mac = |netns: &Netns, name: &str| {
        let links: serde_json::Value =
            serde_json::from_str(&netns.ip(&format!("-json link show dev {name}")).unwrap())
                .unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    };
    let own = mac(&prepared.netns, "eth0");
    let previous = json!({ "prevResult": {
        "cniVersion": "0.3.1",
        "interfaces": [
            { "name": "cni0", "mac": mac(worker, "cni0") },
            { "name": "vethheir", "mac": mac(worker, "vethheir") },
            { "name": "eth0", "mac": &own, "sandbox": prepared.netns.path() },
        ],
        "ips": [
            { "version": "4", "interface": 2, "address": "10.244.1.98/24", "gateway": "10.244.1.1" },
            { "version": "6", "interface": 2, "address": "fd00:10:244:1::98/64", "gateway": "fd00:10:244:1::1" },
        ],
    }});
    prepared
        .chain
        .call_one("cilium-cni", "ADD", Some(&prepared.sandbox), &previous)
        .unwrap();

    let endpoint = scenario.agent.endpoint("heir").unwrap();
    assert_eq!(endpoint["status"]["networking"]["interface-index"], index);
    for to in [IpAddr::from(friend.ipv4), IpAddr::from(friend.ipv6)] {
        assert_eq!(probe::ping(&prepared.netns, to).unwrap(), Outcome::Answered);
    }
    // As the former pod it may not speak.
    let (send, see) = (
        Tap::open(&prepared.netns, "eth0").unwrap(),
        Tap::open(&friend.netns, "eth0").unwrap(),
    );
    let own = parse_mac(&own).unwrap();
    let speak = |source: Ipv4Addr, text: &[u8]| {
        let datagram = packet::udp((source.into(), 1), (friend.ipv4.into(), 1), text);
        send.send(&datagram.frame(friend.mac, own)).unwrap();
    };
    speak(former_address, b"as the former");
    speak(Ipv4Addr::new(10, 244, 1, 98), b"as itself");
    let before = see
        .until(wait::LONG, |frame| contains(frame, b"as itself"))
        .unwrap();
    assert!(!before.iter().any(|frame| contains(frame, b"as the former")));
}

#[test]
fn a_second_agent_on_the_node_is_refused_and_disturbs_nothing() {
    let Some(mut scenario) = Scenario::start().unwrap() else {
        return;
    };
    let mut command = agent_command(&scenario.lab).unwrap();
    let log = scenario.lab.directory().join("second.log");
    let mut second = scenario
        .lab
        .worker
        .netns
        .enter(|| Process::spawn("second agent", &mut command, log))
        .unwrap()
        .unwrap();
    let status = second.wait(wait::LONG).unwrap();
    assert!(!status.success());
    assert!(
        second.log().contains("another agent runs"),
        "{}",
        second.log()
    );
    scenario.agent.until_ready().unwrap();
    pod(&scenario.lab, "one");
}

#[test]
fn the_newest_version_of_cni_is_spoken_from_status_to_del() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    // The plugin before ours may be too old for it: each is asked in a version of its own.
    let prepared = scenario.lab.pod("one").prepare().unwrap();
    let call = |kind: &str, verb: &str, extra: Value| {
        let sandbox = (!["STATUS", "GC"].contains(&verb)).then_some(&prepared.sandbox);
        prepared.chain.call_one(kind, verb, sandbox, &extra)
    };
    let ours = |verb: &str, mut extra: Value| {
        extra["cniVersion"] = "1.1.0".into();
        call("cilium-cni", verb, extra).unwrap()
    };
    let attachments = || {
        let endpoints = scenario.agent.cli().json(&["endpoint", "list"]).unwrap();
        endpoints.as_array().unwrap().len()
    };
    let mut bridge = call("bridge", "ADD", json!({ "cniVersion": "1.0.0" }))
        .unwrap()
        .unwrap();
    bridge["cniVersion"] = "1.1.0".into();

    assert_eq!(ours("STATUS", json!({})), None);
    let added = ours("ADD", json!({ "prevResult": bridge })).unwrap();
    assert_eq!(added["cniVersion"], "1.1.0");
    assert_eq!(added["interfaces"], bridge["interfaces"]);
    ours("CHECK", json!({ "prevResult": added }));
    let valid = json!([{
        "containerID": prepared.sandbox.container_id,
        "ifname": prepared.sandbox.interface,
    }]);
    ours("GC", json!({ "cni.dev/valid-attachments": valid }));
    assert_eq!(attachments(), 1, "what is valid stays");
    ours("GC", json!({ "cni.dev/valid-attachments": [] }));
    call("bridge", "DEL", json!({ "cniVersion": "1.0.0" })).unwrap();
    wait::until("what is not valid goes", wait::LONG, || {
        Ok((attachments() == 0).then_some(()))
    })
    .unwrap();
    ours("DEL", json!({}));
}

#[test]
fn the_log_tells_the_life_of_a_pod() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    pod(&scenario.lab, "one").delete().unwrap();
    let told = wait::until("the pod's end is told", wait::LONG, || {
        let log = scenario.agent.log();
        let told: Vec<String> = log
            .lines()
            .filter(|line| line.contains("pod=default/one") || line.contains("pod=\"default/one\""))
            .map(str::to_owned)
            .collect();
        let ended = told
            .last()
            .is_some_and(|line| line.contains("endpoint gone"));
        Ok(ended.then_some(told))
    })
    .unwrap();
    let mut lines = told.iter();
    for event in [
        "endpoint requested",
        "identity assigned",
        "policy computed",
        "programs attached",
        " ready ",
        "endpoint to be deleted",
        "endpoint gone",
    ] {
        let line = lines.find(|line| line.contains(event));
        assert!(line.is_some(), "no {event:?} in its place: {told:#?}");
        let timed =
            event.starts_with("endpoint to be") || line.is_some_and(|line| line.contains("ms="));
        assert!(timed, "no time: {line:?}");
    }
}

#[test]
fn while_the_agent_is_down_no_pod_is_added_and_every_pod_can_go() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let Scenario { mut agent, lab } = scenario;
    let one = pod(&lab, "one");
    let mut two = lab.pod("two").prepare().unwrap();
    // CHECK came with a later version of the specification than the one that most configurations name.
    two.chain.conflist["cniVersion"] = "1.0.0".into();
    let two = two.add().unwrap();
    two.check().unwrap();
    agent.process().crash().unwrap();
    assert!(two.check().is_err(), "nobody can say that it is well");

    let late = lab.pod("late").prepare().unwrap();
    let (chain, sandbox) = (late.chain.clone(), late.sandbox.clone());
    let error = late.add().unwrap_err();
    assert!(
        format!("{error:#}").contains("code 11"),
        "not retryable: {error:#}"
    );
    chain.del(&sandbox, None).unwrap();
    one.delete().unwrap();
    assert_eq!(
        probe::ping(&two.netns, lab.worker.ipv4.into()).unwrap(),
        Outcome::Answered
    );

    let agent = Agent::start(&lab).unwrap();
    wait::until(
        "only the pod that stayed is an endpoint",
        wait::LONG,
        || {
            let list = agent.cli().json(&["endpoint", "list"])?;
            let names: Vec<_> = list
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|endpoint| {
                    endpoint["status"]["external-identifiers"]["k8s-pod-name"].as_str()
                })
                .collect();
            Ok((names == ["two"]).then_some(()))
        },
    )
    .unwrap();
    two.check().unwrap();
}

#[test]
fn what_was_enforced_stays_enforced_through_a_crash_and_a_restart() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (subject, friend, stranger) = (
        pod(&scenario.lab, "subject"),
        pod(&scenario.lab, "friend"),
        pod(&scenario.lab, "stranger"),
    );
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    scenario
        .enforce("web", &policy("web", FROM_FRIEND))
        .unwrap();
    let judged = || {
        assert_eq!(tcp(&friend.netns, &subject, 80), Outcome::Answered);
        assert_eq!(tcp(&stranger.netns, &subject, 80), Outcome::Silence);
    };
    judged();
    let Scenario { mut agent, lab } = scenario;
    agent.process().crash().unwrap();
    judged();
    let agent = Agent::start(&lab).unwrap();
    agent.until_policy("web", true).unwrap();
    judged();
}

#[test]
fn a_restart_on_unchanged_input_writes_nothing() {
    if !require(&[Need::Strace]) || !require(&NEEDS) {
        return;
    }
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let _pods = [pod(&scenario.lab, "subject"), pod(&scenario.lab, "friend")];
    scenario
        .enforce("web", &policy("web", FROM_FRIEND))
        .unwrap();
    let Scenario { mut agent, lab } = scenario;
    // A hook that is staged still would get its link from the next agent.
    agent.until_linked().unwrap();
    agent.process().crash().unwrap();
    drop(agent);

    let trace = lab.directory().join("trace");
    let agent = agent_command(&lab).unwrap();
    let mut traced = Command::new(find_program("strace").unwrap());
    traced
        .args(["-f", "-qq", "-e", "trace=bpf", "-o"])
        .arg(&trace)
        .arg(agent.get_program())
        .args(agent.get_args());
    let log = lab.directory().join("traced.log");
    let process = lab
        .worker
        .netns
        .enter(|| Process::spawn("traced agent", &mut traced, log))
        .unwrap()
        .unwrap();
    let cli = Cli::new(&lab).unwrap();
    wait::until("the traced agent is ready", wait::LONG * 3, || {
        let status = cli.output(&["status"])?;
        Ok(status.status.success().then_some(()))
    })
    .map_err(|error| error.context(process.log()))
    .unwrap();
    let calls = std::fs::read_to_string(&trace).unwrap();
    let writes: Vec<&str> = calls
        .lines()
        .filter(|line| {
            [
                "BPF_MAP_UPDATE_ELEM",
                "BPF_MAP_UPDATE_BATCH",
                "BPF_MAP_DELETE_ELEM",
                "BPF_MAP_DELETE_BATCH",
                "BPF_LINK_CREATE",
                "BPF_LINK_UPDATE",
                "BPF_PROG_ATTACH",
                "BPF_PROG_DETACH",
                "BPF_OBJ_PIN",
            ]
            .iter()
            .any(|command| line.contains(command))
        })
        .collect();
    assert!(calls.contains("bpf("), "strace saw no bpf call at all");
    assert!(writes.is_empty(), "{}", writes.join("\n"));
}

#[test]
fn a_bad_file_leaves_what_it_said_before_in_force_also_through_a_restart() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let (subject, friend, stranger) = (
        pod(&scenario.lab, "subject"),
        pod(&scenario.lab, "friend"),
        pod(&scenario.lab, "stranger"),
    );
    let _service = TcpServer::echo(&subject.netns, 80).unwrap();
    let good = policy("web", FROM_FRIEND);
    scenario.enforce("web", &good).unwrap();
    let judged = |when: &str| {
        assert_eq!(
            tcp(&friend.netns, &subject, 80),
            Outcome::Answered,
            "{when}"
        );
        assert_eq!(
            tcp(&stranger.netns, &subject, 80),
            Outcome::Silence,
            "{when}"
        );
    };
    let Scenario { mut agent, lab } = scenario;
    for (when, text) in [
        ("half written", &good[..good.len() / 2]),
        ("empty", ""),
        ("not YAML", "{{{{"),
        ("an unknown field", &good.replace("ingress:", "ingres:")),
        (
            "a bad label",
            &good.replace("app: friend", "app: \"not a label!\""),
        ),
    ] {
        lab.manifests.put_in_place("web.yaml", text).unwrap();
        wait::until(
            &format!("the refusal of a file that is {when}"),
            wait::LONG,
            || {
                let status = agent.cli().status()?;
                let refused = status["refused"].to_string();
                Ok(refused.contains("web").then_some(()))
            },
        )
        .unwrap();
        judged(when);
        agent.process().crash().unwrap();
        agent = Agent::launch(&lab).unwrap();
        agent.until_policy("web", true).unwrap();
        judged(&format!("{when}, after a restart"));
        lab.manifests.put("web.yaml", &good).unwrap();
        wait::until("the good file is taken again", wait::LONG, || {
            let status = agent.cli().status()?;
            Ok((!status["refused"].to_string().contains("web")).then_some(()))
        })
        .unwrap();
    }
    lab.manifests.remove("web.yaml").unwrap();
    agent.until_policy("web", false).unwrap();
    assert_eq!(tcp(&stranger.netns, &subject, 80), Outcome::Answered);
}
