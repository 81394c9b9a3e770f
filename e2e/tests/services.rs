//! Services reached by their ClusterIP: translated before egress policy judges, so that policy knows the backend.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use oxilium_e2e::{
    pod::Pod,
    probe::{self, Outcome},
    process::command,
    require::{Need, require},
    scenario::{Scenario, policy, sockets},
    server::{self, TcpServer, UdpEcho},
    service::ServiceObject,
    wait,
};

const DNS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];

/// Nothing goes out but to kube-dns, which listens on another port than its service has.
const ONLY_DNS: &str = "  egress:\n    - toEndpoints:\n        - matchLabels: {k8s-app: kube-dns, \
     io.kubernetes.pod.namespace: kube-system}\n      toPorts:\n        - ports: [{port: \"5353\", protocol: ANY}]\n";

fn service(pods: &[&Pod]) -> ServiceObject {
    ServiceObject {
        name: "kube-dns".to_owned(),
        namespace: "kube-system".to_owned(),
        addresses: DNS.map(|address| address.parse().unwrap()),
        port: 53,
        target_port: 5353,
        protocols: vec!["UDP", "TCP"],
        backends: pods
            .iter()
            .flat_map(|pod| [IpAddr::from(pod.ipv4), IpAddr::from(pod.ipv6)])
            .collect(),
    }
}

fn dns_pod(scenario: &Scenario, name: &str) -> Pod {
    scenario
        .lab
        .pod(name)
        .namespace("kube-system")
        .label("k8s-app", "kube-dns")
        .start()
        .unwrap()
}

/// Writes the service and waits until the kernel has it.
fn put(scenario: &Scenario, service: &ServiceObject) {
    let before = scenario.agent.revision().unwrap();
    service.put(&scenario.lab.manifests).unwrap();
    scenario.agent.until_revision_after(before).unwrap();
}

fn dns_under_default_deny(kube_proxy: bool) {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let client = scenario
        .lab
        .pod("subject")
        .label("app", "subject")
        .start()
        .unwrap();
    let dns = dns_pod(&scenario, "dns");
    let other = dns_pod(&scenario, "web");
    let _echoes = sockets(&dns, 5353).map(|address| UdpEcho::start(&dns.netns, address).unwrap());
    let _servers = [&dns, &other].map(|pod| TcpServer::echo(&pod.netns, 5353).unwrap());
    let service = service(&[&dns]);
    let web = ServiceObject {
        name: "web".to_owned(),
        namespace: "default".to_owned(),
        addresses: ["10.96.0.80", "fd00:10:96::80"].map(|address| address.parse().unwrap()),
        port: 80,
        ..self::service(&[&other])
    };
    if kube_proxy {
        for service in [&service, &web] {
            service.proxy(&scenario.lab.worker.netns).unwrap();
        }
    }
    put(&scenario, &service);
    put(&scenario, &web);
    let resolve = |size| {
        service
            .sockets()
            .map(|to| probe::udp(&client.netns, to, size).unwrap())
    };
    let tcp = |service: &ServiceObject| {
        service
            .sockets()
            .map(|to| probe::tcp(&client.netns, to).unwrap())
    };
    let (answered, silence) = (
        [Outcome::Answered, Outcome::Answered],
        [Outcome::Silence, Outcome::Silence],
    );
    assert_eq!(resolve(10), answered, "nobody enforces anything");
    assert_eq!(tcp(&web), answered, "nobody enforces anything");

    scenario
        .enforce("only-dns", &policy("only-dns", ONLY_DNS))
        .unwrap();
    assert_eq!(resolve(10), answered, "a question");
    assert_eq!(resolve(4000), answered, "a question in fragments");
    assert_eq!(tcp(&service), answered, "a question by TCP");
    let direct = sockets(&dns, 5353).map(|to| probe::tcp(&client.netns, to).unwrap());
    assert_eq!(direct, answered, "the backend itself");
    assert_eq!(
        sockets(&dns, 53).map(|to| probe::tcp(&client.netns, to).unwrap()),
        silence,
        "the service's port is not the backend's"
    );

    told(&scenario, &client, &dns);

    let mut labels = other;
    labels.set_labels(&[("k8s-app", "web")]).unwrap();
    wait::until("the web server is none of kube-dns", wait::LONG, || {
        Ok((tcp(&web) == silence).then_some(()))
    })
    .unwrap();
    assert_eq!(resolve(10), answered, "still");

    let mut none = service.clone();
    none.backends.clear();
    put(&scenario, &none);
    assert_eq!(resolve(10), silence, "nobody is left to answer");
    put(&scenario, &service);
    assert_eq!(resolve(10), answered, "somebody answers again");
}

/// `monitor` and `explain` name the frontend and its backend.
fn told(scenario: &Scenario, client: &Pod, dns: &Pod) {
    let cli = scenario.agent.cli();
    let monitor = cli.monitor(&scenario.lab, &[]).unwrap();
    let frontend = service(&[]).sockets()[0];
    assert_eq!(
        probe::tcp(&client.netns, frontend).unwrap(),
        Outcome::Answered
    );
    let backend = format!("{}:5353", dns.ipv4);
    for direction in ["egress", "ingress"] {
        monitor
            .until("frontend and backend", |event| {
                event["direction"] == direction
                    && event["frontend"] == frontend.to_string()
                    && event["backend"] == backend
                    && event["service"] == "kube-system/kube-dns"
            })
            .unwrap();
    }
    for to in [
        frontend.ip().to_string().as_str(),
        "service:kube-system/kube-dns",
    ] {
        let question = ["explain", "default/subject", to, "53/TCP", "--packet"];
        let explained = cli.json(&question).unwrap();
        assert_eq!(explained["allowed"], true, "{explained}");
        let service = &explained["service"];
        assert_eq!(
            service["backends"][0]["backend"],
            format!("{backend}/TCP"),
            "{explained}"
        );
        assert_eq!(service["programs"][0]["agrees"], true, "{explained}");
    }
}

#[test]
fn dns_by_its_service_under_default_deny() {
    dns_under_default_deny(false);
}

#[test]
fn dns_by_its_service_under_default_deny_beside_kube_proxy() {
    if require(&[Need::BridgeNetfilter]) {
        dns_under_default_deny(true);
    }
}

/// By what kube-proxy is known to be there in each of its modes, and how that is undone.
const PROXIES: [(&str, [&str; 2]); 6] = [
    (
        "IPv4",
        [
            "nft add table ip kube-proxy",
            "nft delete table ip kube-proxy",
        ],
    ),
    (
        "IPv6",
        [
            "nft add table ip6 kube-proxy",
            "nft delete table ip6 kube-proxy",
        ],
    ),
    (
        "IPv4",
        [
            "iptables-nft -t nat -N KUBE-SERVICES",
            "iptables-nft -t nat -X KUBE-SERVICES",
        ],
    ),
    (
        "IPv6",
        [
            "ip6tables-nft -t nat -N KUBE-SERVICES",
            "ip6tables-nft -t nat -X KUBE-SERVICES",
        ],
    ),
    (
        "IPv4",
        [
            "iptables-legacy -t nat -N KUBE-SERVICES",
            "iptables-legacy -t nat -X KUBE-SERVICES",
        ],
    ),
    (
        "IPv6",
        [
            "ip6tables-legacy -t nat -N KUBE-SERVICES",
            "ip6tables-legacy -t nat -X KUBE-SERVICES",
        ],
    ),
];

#[test]
fn status_warns_where_kube_proxy_in_any_mode_sees_half_of_each_connection() {
    if !require(&[Need::BridgeNetfilter]) {
        return;
    }
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let dns = dns_pod(&scenario, "dns");
    put(&scenario, &service(&[&dns]));
    let node = &scenario.lab.worker.netns;
    let run = |line: &str| {
        let mut words = line.split(' ');
        let mut command = command(words.next().unwrap());
        node.run(command.args(words)).unwrap();
    };
    let bridges_call = |value: &str| {
        for family in ["iptables", "ip6tables"] {
            let key = format!("net.bridge.bridge-nf-call-{family}");
            node.sysctl(&key, value).unwrap();
        }
    };
    let warned = || {
        let status = scenario.agent.cli().status().unwrap();
        let said = status["cilium"]["msg"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let halves = ["IPv4", "IPv6"].map(|family| format!("half of an {family} connection"));
        halves.map(|half| said.contains(&half))
    };
    // Somebody else's table.
    run("nft add table ip nat");
    for (family, [add, remove]) in PROXIES {
        bridges_call("0");
        assert_eq!(warned(), [false, false], "before {add}");
        run(add);
        assert_eq!(warned(), ["IPv4", "IPv6"].map(|one| one == family), "{add}");
        bridges_call("1");
        assert_eq!(warned(), [false, false], "{add}, and bridges call");
        run(remove);
    }
}

/// One line there and back.
fn talks(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"hello"
}

#[test]
fn a_connection_outlives_its_backends_removal_from_the_service() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let client = scenario
        .lab
        .pod("subject")
        .label("app", "subject")
        .start()
        .unwrap();
    let (first, second) = (dns_pod(&scenario, "first"), dns_pod(&scenario, "second"));
    let server = TcpServer::echo(&first.netns, 5353).unwrap();
    let echoes =
        |pod: &Pod| sockets(pod, 5353).map(|address| UdpEcho::start(&pod.netns, address).unwrap());
    let first_echoes = echoes(&first);
    put(&scenario, &service(&[&first]));
    scenario
        .enforce("only-dns", &policy("only-dns", ONLY_DNS))
        .unwrap();
    let frontends: [SocketAddr; 2] = service(&[]).sockets();
    let mut connections = frontends.map(|to| {
        let stream = server::connect(&client.netns, to, Duration::from_secs(5)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    });
    let udp = frontends.map(|to| {
        client
            .netns
            .enter(|| {
                let any: IpAddr = if to.is_ipv4() {
                    [0, 0, 0, 0].into()
                } else {
                    [0_u16; 8].into()
                };
                let socket = std::net::UdpSocket::bind((any, 0)).unwrap();
                socket.connect(to).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                socket
            })
            .unwrap()
    });
    let asks = |socket: &std::net::UdpSocket| {
        socket.send(b"?").unwrap();
        socket.recv(&mut [0; 8]).is_ok()
    };
    assert!(connections.iter_mut().all(talks));
    assert!(udp.iter().all(asks));

    // From now on only the second one is in the service: TCP that is open goes on, all else moves.
    let _second = echoes(&second);
    drop(first_echoes);
    put(&scenario, &service(&[&second]));
    assert!(connections.iter_mut().all(talks), "open connections go on");
    assert!(
        udp.iter().all(asks),
        "the same sockets are answered by the other"
    );
    for to in frontends {
        let refused = probe::tcp(&client.netns, to).unwrap();
        assert!(
            matches!(refused, Outcome::Refused(_)),
            "nobody listens on the second one: {refused}"
        );
    }
    drop(server);
}

#[test]
fn a_pod_reaches_itself_through_its_service_whatever_policy_says() {
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let subject = scenario
        .lab
        .pod("subject")
        .label("app", "subject")
        .start()
        .unwrap();
    let other = scenario.lab.pod("other").start().unwrap();
    let _echoes =
        sockets(&subject, 5353).map(|address| UdpEcho::start(&subject.netns, address).unwrap());
    let server = TcpServer::echo(&subject.netns, 5353).unwrap();
    let service = service(&[&subject]);
    put(&scenario, &service);
    // One empty rule: enforced in both directions, and nothing is allowed.
    scenario
        .enforce(
            "nothing",
            &policy("nothing", "  ingress:\n    - {}\n  egress:\n    - {}\n"),
        )
        .unwrap();
    let reach = |from: &Pod| {
        service.sockets().map(|to| {
            [
                probe::tcp(&from.netns, to).unwrap(),
                probe::udp(&from.netns, to, 10).unwrap(),
                probe::udp(&from.netns, to, 4000).unwrap(),
            ]
        })
    };
    let outcome = |outcome: Outcome| [outcome.clone(), outcome.clone(), outcome];
    assert_eq!(
        reach(&subject),
        [outcome(Outcome::Answered), outcome(Outcome::Answered)],
        "itself: a segment, a datagram, a datagram in fragments"
    );
    assert_eq!(
        reach(&other),
        [outcome(Outcome::Silence), outcome(Outcome::Silence)],
        "another pod"
    );

    // What nobody listens to is refused at once, to itself as to others.
    drop(server);
    let refused = service
        .sockets()
        .map(|to| probe::tcp(&subject.netns, to).unwrap());
    assert!(
        refused
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Refused(_))),
        "{refused:?}"
    );
}

#[test]
fn status_tells_where_netfilter_sees_half_of_a_connection() {
    if !require(&[Need::BridgeNetfilter]) {
        return;
    }
    let Some(scenario) = Scenario::start().unwrap() else {
        return;
    };
    let client = scenario.lab.pod("subject").start().unwrap();
    let dns = dns_pod(&scenario, "dns");
    let _server = TcpServer::echo(&dns.netns, 5353).unwrap();
    let service = service(&[&dns]);
    put(&scenario, &service);
    let node = &scenario.lab.worker.netns;
    let cilium = || {
        let status = scenario.agent.cli().status().unwrap();
        let text = |key: &str| status["cilium"][key].as_str().unwrap().to_owned();
        (text("state"), text("msg"))
    };
    // The answer to a SYN needs no router; what comes then does.
    let exchanged = || {
        service.sockets().map(|to| {
            let limit = Duration::from_secs(2);
            let mut stream = server::connect(&client.netns, to, limit).unwrap();
            stream.set_read_timeout(Some(limit)).unwrap();
            talks(&mut stream)
        })
    };
    let set = |value: &str| {
        for sysctl in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            node.sysctl(&format!("net/bridge/{sysctl}"), value).unwrap();
        }
    };

    set("0");
    assert_eq!(cilium().0, "Ok", "no kube-proxy, nobody minds");
    assert_eq!(exchanged(), [true, true]);

    service.proxy(node).unwrap();
    let (state, message) = cilium();
    assert_eq!(state, "Warning", "{message}");
    assert!(
        message.contains("net.bridge.bridge-nf-call-iptables is 0"),
        "{message}"
    );
    assert_eq!(exchanged(), [false, false], "as was told");

    set("1");
    assert_eq!(cilium().0, "Ok");
    assert_eq!(exchanged(), [true, true]);
}
