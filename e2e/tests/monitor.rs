//! `monitor` shows what its filters ask for, of what really happens between pods, and nothing else.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::collections::BTreeSet;

use oxilium_e2e::{
    agent::Monitor,
    pod::Pod,
    probe,
    scenario::{Scenario, policy, sockets},
    server::TcpServer,
    wait,
};
use serde_json::Value;

/// Pods that talk to each other over IPv4, and how.
struct Stage {
    scenario: Scenario,
    subject: Pod,
    friend: Pod,
    stranger: Pod,
    _servers: [TcpServer; 2],
}

impl Stage {
    fn start() -> Option<Self> {
        let scenario = Scenario::start().unwrap()?;
        let pod = |name: &str| scenario.lab.pod(name).label("app", name).start().unwrap();
        let (subject, friend, stranger) = (pod("subject"), pod("friend"), pod("stranger"));
        let friends = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n";
        scenario.enforce("web", &policy("web", friends)).unwrap();
        let servers = [&subject, &friend].map(|pod| TcpServer::echo(&pod.netns, 80).unwrap());
        Some(Self {
            scenario,
            subject,
            friend,
            stranger,
            _servers: servers,
        })
    }

    fn id(&self, pod: &Pod) -> String {
        self.scenario.agent.endpoint(pod.name()).unwrap()["id"].to_string()
    }

    fn monitor(&self, args: &[&str]) -> Monitor {
        let cli = self.scenario.agent.cli();
        cli.monitor(&self.scenario.lab, args).unwrap()
    }

    /// A connection that policy allows, one in the other direction, and one that it denies.
    fn talk(&self) {
        let answers = |from: &Pod, to: &Pod| {
            probe::tcp(&from.netns, sockets(to, 80)[0])
                .unwrap()
                .is_answered()
        };
        assert!(answers(&self.friend, &self.subject));
        assert!(answers(&self.subject, &self.friend));
        assert!(!answers(&self.stranger, &self.subject));
    }

    /// What a monitor told of these pods' TCP.
    fn told(&self, monitor: &Monitor) -> Vec<Event> {
        let addresses =
            [&self.subject, &self.friend, &self.stranger].map(|pod| pod.ipv4.to_string());
        let events = monitor.events().unwrap();
        assert!(
            !events.iter().any(|event| event["type"] == "lost"),
            "there are too few events for any to be lost"
        );
        events
            .into_iter()
            .map(Event)
            .filter(|event| event.0["protocol"] == 6)
            .filter(|event| {
                [event.from(), event.to()]
                    .iter()
                    .all(|end| addresses.contains(end))
            })
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Event(Value);

impl Event {
    fn kind(&self) -> &str {
        self.0["type"].as_str().unwrap()
    }

    fn address(&self, end: &str) -> String {
        let text = self.0[end].as_str().unwrap();
        text.split(':').next().unwrap_or_default().to_owned()
    }

    /// The address that the packet is from.
    fn from(&self) -> String {
        self.address("source")
    }

    /// The address that the packet is to.
    fn to(&self) -> String {
        self.address("destination")
    }
}

/// Whether an event is what a monitor with a filter is to show.
type Wanted<'s> = Box<dyn Fn(&Event) -> bool + 's>;

#[test]
fn each_filter_shows_what_it_asks_for_and_nothing_else() {
    let Some(stage) = Stage::start() else {
        return;
    };
    let of = |pod: &Pod| (stage.id(pod), pod.ipv4.to_string());
    let (subject, friend, stranger) = (of(&stage.subject), of(&stage.friend), of(&stage.stranger));
    let is = |kind: &'static str| move |event: &Event| event.kind() == kind;
    let from = |(_, address): &(String, String)| {
        let address = address.clone();
        move |event: &Event| event.from() == address
    };
    let to = |(_, address): &(String, String)| {
        let address = address.clone();
        move |event: &Event| event.to() == address
    };
    let both = format!("{},{}", friend.0, stranger.0);
    let filters: Vec<(Vec<&str>, Wanted<'_>)> = vec![
        (vec!["--type", "drop"], Box::new(is("drop"))),
        (
            vec!["--type", "policy-verdict"],
            Box::new(is("policy-verdict")),
        ),
        (vec!["--type", "trace"], Box::new(is("trace"))),
        (
            vec!["-t", "drop", "-t", "policy-verdict"],
            Box::new(|event| event.kind() != "trace"),
        ),
        (vec!["--from", &friend.0], Box::new(from(&friend))),
        (vec!["--to", &friend.0], Box::new(to(&friend))),
        (vec!["--from", &both], {
            let (friend, stranger) = (from(&friend), from(&stranger));
            Box::new(move |event| friend(event) || stranger(event))
        }),
        (vec!["--related-to", &stranger.0], {
            let (from, to) = (from(&stranger), to(&stranger));
            Box::new(move |event| from(event) || to(event))
        }),
        (vec!["--from", &subject.0, "--to", &friend.0], {
            let (from, to) = (from(&subject), to(&friend));
            Box::new(move |event| from(event) && to(event))
        }),
        (vec!["--type", "drop", "--from", &stranger.0], {
            let from = from(&stranger);
            Box::new(move |event| event.kind() == "drop" && from(event))
        }),
    ];
    let all = stage.monitor(&[]);
    let monitors: Vec<(Monitor, Wanted<'_>, Vec<&str>)> = filters
        .into_iter()
        .map(|(args, wanted)| (stage.monitor(&args), wanted, args))
        .collect();
    let nobody = stage.monitor(&["--type", "drop", "--from", &friend.0]);

    // Twice: what a filter lets through by mistake after the last event that it is to show is seen before the last but one.
    stage.talk();
    stage.talk();
    let seen = |kind: &str, verdict: &str| -> usize {
        let told = stage.told(&all);
        told.iter()
            .filter(|event| event.kind() == kind)
            .filter(|event| verdict.is_empty() || event.0["verdict"] == verdict)
            .count()
    };
    wait::until("all of it was told", wait::LONG, || {
        Ok((seen("drop", "") >= 2
            && seen("policy-verdict", "deny") >= 2
            && seen("policy-verdict", "allow") >= 4
            && seen("trace", "") >= 4)
            .then_some(()))
    })
    .unwrap();
    let denied: BTreeSet<String> = stage
        .told(&all)
        .iter()
        .filter(|event| event.kind() == "drop")
        .map(Event::from)
        .collect();
    assert_eq!(denied, BTreeSet::from([stranger.1.clone()]));

    for (monitor, wanted, args) in &monitors {
        let expected = || -> Vec<Event> {
            let all = stage.told(&all).into_iter();
            all.filter(|event| wanted(event)).collect()
        };
        assert!(!expected().is_empty(), "nothing is there for {args:?}");
        wait::until(&format!("{args:?} shows all"), wait::LONG, || {
            Ok((stage.told(monitor).len() >= expected().len()).then_some(()))
        })
        .unwrap();
        assert_eq!(stage.told(monitor), expected(), "{args:?}");
    }
    assert_eq!(nobody.events().unwrap(), Vec::<Value>::new());
}
