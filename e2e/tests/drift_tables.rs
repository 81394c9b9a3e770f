//! Entries of each table that somebody removes, changes or adds: found by the next sweep, told of by the name of their
//! table, counted, and repaired by the fewest writes.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use anyhow::Context;
use oxilium_abi::map;
use oxilium_e2e::{
    agent::{Agent, agent_command},
    dump,
    lab::Lab,
    pod::Pod,
    probe::{self, Outcome},
    process::command,
    require::require,
    scenario::{NEEDS, policy, sockets},
    server::TcpServer,
    service::ServiceObject,
    tables::Tables,
    tamper::{Blow, Victims, blows},
    wait,
};
use oxilium_model::plan::Table;

/// Where the agent tells its metrics, in the worker's namespace.
const METRICS: &str = "127.0.0.1:9964";

/// The agent's name for a map's content.
fn table_of(map: &str) -> Table {
    match map {
        map::POLICY => Table::Policy,
        map::POLICY_SHAPES => Table::Shapes,
        map::IPCACHE => Table::Ipcache,
        map::INTERFACES => Table::Interfaces,
        map::ENDPOINT_WORDS => Table::EndpointWords,
        map::NODE_WORDS => Table::NodeWords,
        map::SERVICES => Table::Services,
        map::BACKENDS => Table::Backends,
        map::REVERSE_NAT => Table::ReverseNat,
        other => unreachable!("{other} is no table of ours"),
    }
}

struct Stage {
    agent: Agent,
    subject: Pod,
    friend: Pod,
    stranger: Pod,
    other: Pod,
    service: ServiceObject,
    lab: Lab,
}

impl Stage {
    /// An agent that sweeps each second, a pod with a policy, and a service.
    fn start() -> Self {
        let lab = Lab::new().unwrap();
        let mut command = agent_command(&lab).unwrap();
        command.args(["--sweep-interval", "1", "--conntrack-gc-interval", "3600"]);
        command.args(["--prometheus-serve-addr", METRICS]);
        let mut agent = Agent::launch_as(&lab, command).unwrap();
        agent.until_ready().unwrap();
        let pod = |name: &str| lab.pod(name).label("app", name).start().unwrap();
        let [subject, friend, stranger, other] =
            ["subject", "friend", "stranger", "other"].map(pod);
        let service = ServiceObject {
            name: "dns".to_owned(),
            namespace: "default".to_owned(),
            addresses: ["10.96.0.53", "fd00:10:96::53"].map(|address| address.parse().unwrap()),
            port: 53,
            target_port: 5353,
            protocols: vec!["UDP"],
            backends: vec![IpAddr::from(subject.ipv4), IpAddr::from(subject.ipv6)],
        };
        service.put(&lab.manifests).unwrap();
        let rules = "  ingress:\n    - fromEndpoints:\n        - matchLabels: {app: friend}\n    \
                     - fromCIDR: [203.0.113.0/25]\n      \
                     toPorts:\n        - ports: [{port: \"22\", protocol: TCP}, {port: \"179\", protocol: TCP}]\n";
        lab.manifests
            .put("web.yaml", &policy("web", rules))
            .unwrap();
        agent.until_policy("web", true).unwrap();
        agent.until_linked().unwrap();
        Self {
            agent,
            subject,
            friend,
            stranger,
            other,
            service,
            lab,
        }
    }

    fn held(&self) -> Vec<String> {
        let pods = [&self.subject, &self.friend, &self.stranger, &self.other];
        dump::settled(&self.lab, &pods).unwrap()
    }

    fn blows(&self) -> Vec<Blow> {
        let victims = Victims {
            subject: &self.subject,
            friend: &self.friend,
            stranger: &self.stranger,
            other: &self.other,
            service: self.service.sockets(),
        };
        blows(&Tables::new(&self.lab), &victims).unwrap()
    }

    fn metrics(&self) -> anyhow::Result<Metrics> {
        let mut curl = command("curl");
        curl.args(["--silent", "--fail", &format!("http://{METRICS}/metrics")]);
        let text = self.lab.worker.netns.run(&mut curl)?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let parsed = samples.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(Metrics(parsed.collect()))
    }

    /// The metrics once so many sweeps more have read the kernel. The agent hangs up on who asks it while it has no CPU.
    fn metrics_after(&self, more: u64, before: Option<&Metrics>) -> Metrics {
        let wanted = before.map_or(0, Metrics::sweeps) + more;
        wait::until("sweeps", wait::LONG, || {
            let now = self.metrics()?;
            Ok((now.sweeps() >= wanted).then_some(now))
        })
        .unwrap()
    }
}

/// The agent's metrics at one time, by name and labels.
struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    fn of(&self, name: &str) -> u64 {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("no {name}")).unwrap()
    }

    fn sweeps(&self) -> u64 {
        self.of("oxilium_reconcile_duration_seconds_count{phase=\"observe\"}")
    }

    fn repaired(&self) -> u64 {
        self.of("oxilium_drift_repaired_writes_total")
    }

    /// Entries that changed, by table and action.
    fn changed_since(&self, before: &Self) -> BTreeMap<&str, u64> {
        let entries = self.0.iter().filter_map(|(name, value)| {
            let labels = name.strip_prefix("oxilium_kernel_entries_changed_total{")?;
            let was = before.0.get(name).copied().unwrap_or_default();
            (*value > was).then_some((labels.trim_end_matches('}'), value - was))
        });
        entries.collect()
    }
}

/// `policy update 1, …`
fn in_words(changed: &BTreeMap<&str, u64>) -> String {
    let words: Vec<String> = changed
        .iter()
        .map(|(labels, count)| {
            let values: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
            format!("{} {count}", values.join(" "))
        })
        .collect();
    words.join(", ")
}

#[test]
fn what_somebody_does_to_an_entry_is_undone_by_the_next_sweep_and_told() {
    if !require(&NEEDS) {
        return;
    }
    let stage = Stage::start();
    let _server = TcpServer::echo(&stage.subject.netns, 80).unwrap();
    let to = sockets(&stage.subject, 80)[0];
    let verdicts =
        || [&stage.friend, &stage.stranger].map(|pod| probe::tcp(&pod.netns, to).unwrap());
    assert_eq!(verdicts(), [Outcome::Answered, Outcome::Silence]);
    let held = stage.held();
    let mut writes = String::new();
    let count = stage.blows().len();
    for number in 0..count {
        // What is to be hit is read anew: a repair may give out other numbers.
        let blow = &stage.blows()[number];
        let before = stage.metrics_after(0, None);
        let logged = stage.agent.log().len();
        Tables::new(&stage.lab)
            .change(std::slice::from_ref(&blow.change))
            .unwrap();
        // One sweep may have read this table already and not be counted yet; the one after it finds what was done, and
        // when the third has read the kernel that is repaired.
        let struck = stage.metrics_after(0, None);
        let after = stage.metrics_after(3, Some(&struck));

        assert_eq!(stage.held(), held, "{blow}");
        let log = stage.agent.log().split_off(logged);
        let table = table_of(blow.table);
        let told = log.contains("the kernel is not as it was left")
            && log.contains(&format!("\n{table}: "));
        assert!(told, "{blow}: {log}");
        let counted = after.repaired() - before.repaired();
        assert!(counted > 0, "{blow}: not counted");
        let changed = after.changed_since(&before);
        writeln!(writes, "{blow}: counted {counted}, {}", in_words(&changed)).unwrap();
    }
    assert_eq!(verdicts(), [Outcome::Answered, Outcome::Silence]);
    insta::assert_snapshot!(writes);
}
