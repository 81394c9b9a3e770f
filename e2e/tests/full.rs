//! Tables of the real kernel that are full: what is wrong is told, nothing is allowed by it, and all goes on without a restart
//! when there is room again. Conntrack's tests are in `flood.rs` and with the programs.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::net::{IpAddr, SocketAddr};

use oxilium_e2e::{
    agent::Agent,
    manifest::{PodObject, cilium_endpoint_yaml},
    pod::Pod,
    probe::{self, Outcome},
    scenario::{Scenario, policy, sockets},
    scrape::{self, Scrape},
    server::TcpServer,
    service::ServiceObject,
    traffic::Connection,
    wait,
};

fn start(option: &str, entries: &str) -> Option<Scenario> {
    let options = [&scrape::OPTIONS[..], &[option, entries]].concat();
    Scenario::start_with(&options).unwrap()
}

fn answers(from: &Pod, to: SocketAddr) -> bool {
    match probe::tcp(&from.netns, to).unwrap() {
        Outcome::Answered => true,
        Outcome::Silence => false,
        Outcome::Refused(how) => unreachable!("{} to {to}: {how}", from.name()),
    }
}

/// `status` is not content and says this; so does the log. All of `status`.
fn tells(agent: &Agent, what: &str) -> String {
    let status = wait::until(what, wait::LONG, || {
        let output = agent.cli().output(&["status"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(!output.status.success() && text.contains(what), "{text}");
        Ok(Some(text))
    })
    .unwrap();
    assert!(agent.log().contains(what), "{}", agent.log());
    status
}

fn pressure(scenario: &Scenario, map: &str) -> f64 {
    let scraped = Scrape::of(&scenario.lab.worker.netns).unwrap();
    scraped
        .value(&format!("cilium_bpf_map_pressure{{map_name=\"{map}\"}}"))
        .unwrap()
}

#[test]
fn a_pod_without_room_in_the_table_of_interfaces_gets_in_when_another_has_gone() {
    let Some(mut scenario) = start("--bpf-interfaces-max", "2") else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name);
    let subject = pod("subject").start().unwrap();
    let friend = pod("friend").start().unwrap();
    let _server = TcpServer::echo(&subject.netns, 80).unwrap();
    let from = |app| {
        policy(
            "web",
            &format!("  ingress:\n    - fromEndpoints:\n        - matchLabels: {{app: {app}}}\n"),
        )
    };
    scenario.enforce("web", &from("friend")).unwrap();
    let to = sockets(&subject, 80)[0];
    assert!(answers(&friend, to));

    let late = pod("late").prepare().unwrap();
    let refused = late.chain.add(&late.sandbox).unwrap_err();
    let full = "the table of interfaces is full, 2 of 2";
    assert!(format!("{refused:#}").contains(full), "{refused:#}");
    late.chain.del(&late.sandbox, None).unwrap();
    tells(&scenario.agent, full);
    assert!(pressure(&scenario, "interfaces") >= 1.0);

    // Those that are there are served.
    scenario.replace("web", &from("nobody")).unwrap();
    assert!(!answers(&friend, to));
    scenario.replace("web", &from("friend")).unwrap();
    assert!(answers(&friend, to));

    friend.delete().unwrap();
    scenario.agent.until_ready().unwrap();
    let late = late.add().unwrap();
    assert!(!answers(&late, to), "it is judged");
    scenario.replace("web", &from("late")).unwrap();
    assert!(answers(&late, to));
    scenario.agent.until_ready().unwrap();
}

#[test]
fn what_policy_allows_without_room_is_left_out_and_comes_when_there_is_room() {
    let Some(mut scenario) = start("--bpf-policy-map-max", "16") else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let (subject, friend, stranger) = (pod("subject"), pod("friend"), pod("stranger"));
    let _servers = [80, 1001].map(|port| TcpServer::echo(&subject.netns, port).unwrap());
    let [web, first] = [80, 1001].map(|port| sockets(&subject, port)[0]);
    let friends = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
    scenario.enforce("web", &policy("web", friends)).unwrap();
    assert!(answers(&friend, web) && !answers(&stranger, web));

    // Ports that have no prefix in common, to everybody.
    let ports: Vec<String> = (0..40)
        .map(|number| format!("{{port: \"{}\", protocol: TCP}}", 1001 + 2 * number))
        .collect();
    let many = |ports: &[String]| {
        let ports = ports.join(", ");
        policy(
            "many",
            &format!("  ingress:\n    - toPorts: [{{ports: [{ports}]}}]\n"),
        )
    };
    scenario.enforce("many", &many(&ports)).unwrap();
    tells(&scenario.agent, "needs 42 entries and 16 are available");
    assert!(!answers(&stranger, web), "less is allowed, not more");

    scenario.replace("many", &many(&ports[..1])).unwrap();
    scenario.agent.until_ready().unwrap();
    assert!(answers(&friend, web) && answers(&stranger, first));
    assert!(!answers(&stranger, web));
}

/// Pods of the other node that have nothing but addresses.
fn crowd(scenario: &Scenario, pods: u8) {
    let node = scenario.lab.master.ipv4.to_string();
    let yaml: Vec<String> = (1..=pods)
        .map(|number| {
            let object = PodObject {
                name: format!("crowd-{number}"),
                namespace: "default".to_owned(),
                uid: String::new(),
                labels: vec![("app".to_owned(), "crowd".to_owned())],
                node: scenario.lab.master.name.clone(),
                ports: Vec::new(),
                ips: Vec::new(),
            };
            let addresses = [format!("10.77.0.{number}"), format!("fd77::{number}")];
            cilium_endpoint_yaml(&object, &addresses, &node, 5000)
        })
        .collect();
    let manifests = &scenario.lab.manifests;
    manifests.put("crowd.yaml", &yaml.join("---\n")).unwrap();
}

#[test]
fn a_pod_without_room_in_the_ipcache_may_nothing_more_and_what_it_may_when_there_is_room() {
    let Some(mut scenario) = start("--bpf-ipcache-max", "64") else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name);
    let subject = pod("subject").start().unwrap();
    let [friend, late, stranger] =
        ["friend", "late", "stranger"].map(|name| pod(name).on_master().start().unwrap());
    let _server = TcpServer::echo(&subject.netns, 80).unwrap();
    let to = sockets(&subject, 80)[0];
    // The world may, from which a pod without an entry must be told; so may two pods, and one may not.
    let body = "  ingress:\n    - fromEntities: [world]\n    - fromEndpoints:\n        - matchExpressions:\n            \
                - {key: app, operator: In, values: [friend, late]}\n";
    scenario.enforce("web", &policy("web", body)).unwrap();
    friend.publish_endpoint(5001).unwrap();
    let cli = scenario.agent.cli().clone();
    let has_entry = |pod: &Pod| {
        let prefix = format!("{}/32", pod.ipv4);
        let list = cli.text(&["bpf", "ipcache", "list"]).unwrap();
        list.lines()
            .any(|line| line.split_whitespace().next() == Some(&*prefix))
    };
    wait::until("the friend's entry", wait::LONG, || {
        Ok(has_entry(&friend).then_some(()))
    })
    .unwrap();
    assert!(answers(&friend, to));

    crowd(&scenario, 100);
    tells(&scenario.agent, "the ipcache is full (64 prefixes)");
    late.publish_endpoint(5002).unwrap();
    stranger.publish_endpoint(5003).unwrap();
    scenario.agent.until_applied().unwrap();
    tells(
        &scenario.agent,
        "addresses of pods on other nodes have no entry",
    );
    assert!(pressure(&scenario, "ipcache") > 1.0, "more is wanted");
    assert!(has_entry(&friend) && !has_entry(&late) && !has_entry(&stranger));
    assert!(answers(&friend, to), "who has an entry keeps it");
    for left_out in [&late, &stranger] {
        assert!(
            !answers(left_out, to),
            "{} is not the world",
            left_out.name()
        );
    }

    crowd(&scenario, 1);
    scenario.agent.until_ready().unwrap();
    scenario.agent.until_applied().unwrap();
    assert!(pressure(&scenario, "ipcache") < 1.0);
    assert!(has_entry(&late) && has_entry(&stranger));
    assert!(answers(&friend, to) && answers(&late, to));
    assert!(!answers(&stranger, to));
}

#[test]
fn a_service_without_room_reaches_nobody_past_policy_and_is_translated_when_there_is_room() {
    let Some(mut scenario) = start("--bpf-lb-map-max", "3") else {
        return;
    };
    let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
    let (subject, first, second) = (pod("subject"), pod("first"), pod("second"));
    let _server = TcpServer::echo(&second.netns, 8080).unwrap();
    let service = |name: &str, last: u8, backend: &Pod| ServiceObject {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        addresses: [
            IpAddr::from([10, 96, 0, last]),
            IpAddr::from([0xfd00, 10, 0x96, 0, 0, 0, 0, u16::from(last)]),
        ],
        port: 80,
        target_port: 8080,
        protocols: vec!["TCP"],
        backends: vec![backend.ipv4.into(), backend.ipv6.into()],
    };
    // Two frontends and two backends each.
    let (fits, waits) = (service("a", 1, &first), service("b", 2, &second));
    let egress = "  egress:\n    - toEndpoints:\n        - matchLabels: {app: first}\n        - matchLabels: {app: second}\n";
    scenario.enforce("out", &policy("out", egress)).unwrap();
    let put = |service: &ServiceObject| {
        let before = scenario.agent.revision().unwrap();
        service.put(&scenario.lab.manifests).unwrap();
        scenario.agent.until_revision_after(before).unwrap();
    };
    put(&fits);
    let to = SocketAddr::from((IpAddr::from(first.ipv4), 8080));
    let (frontend, netns) = (fits.sockets()[0], &subject.netns);
    let connection = Connection::through(netns, frontend, &first.netns, to).unwrap();

    put(&waits);
    let status = tells(&scenario.agent, "no room in the service tables");
    assert!(status.contains("Service default/b: "), "{status}");
    assert!(pressure(&scenario, "services") > 1.0, "more is wanted");
    for frontend in waits.sockets() {
        assert!(!answers(&subject, frontend), "its address is no pod's");
    }
    connection.is_unharmed().unwrap();

    drop(connection);
    scenario
        .lab
        .manifests
        .remove("service-default-a.yaml")
        .unwrap();
    scenario.agent.until_ready().unwrap();
    wait::until("it is translated", wait::LONG, || {
        let both = waits.sockets().map(|frontend| answers(&subject, frontend));
        Ok((both == [true, true]).then_some(()))
    })
    .unwrap();
    for frontend in fits.sockets() {
        assert!(!answers(&subject, frontend), "it is no service any more");
    }
}
