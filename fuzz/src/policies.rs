//! Policies that are nearly valid, resolved for one subject: what must hold of every table.
//!
//! - its verdicts are those that the rules give, asked one by one
//! - the order of the policies says nothing
//! - one more denial allows nothing that was not allowed before
//! - an error allows nothing

use std::sync::LazyLock;

use arbitrary::Unstructured;
use ipnet::IpNet;
use oxilium_abi::Direction;
use oxilium_manifest::{
    LowerConfig, lower_policy,
    reader::{self, Limits},
};
use oxilium_model::{
    identity::{Identities, Identity, IdentityLabels, NamedPorts, NumericIdentity, Protocol},
    label::Label,
    policy::{
        Outcome, SubjectPolicy, SubjectView, config::PolicyConfig, judge, resolve, rule::Policy,
        table::Packet,
    },
};
use serde_json::Value;

use crate::generate;

/// Identities of pods: a number and labels.
const PODS: [(u32, &[&str]); 3] = [
    (
        1000,
        &["k8s:app=a", "k8s:io.kubernetes.pod.namespace=default"],
    ),
    (
        1001,
        &[
            "k8s:app=b",
            "k8s:tier=front",
            "k8s:io.kubernetes.pod.namespace=default",
        ],
    ),
    (
        1002,
        &["k8s:app=a", "k8s:io.kubernetes.pod.namespace=other"],
    ),
];
/// Prefixes that have an identity of their own, with the world's label that goes with them.
const PREFIXES: [(&str, &str); 4] = [
    ("10.0.0.0/8", "world-ipv4"),
    ("10.1.0.0/16", "world-ipv4"),
    ("10.1.2.3/32", "world-ipv4"),
    ("fd00::/8", "world-ipv6"),
];

/// One set of policies and one more denial.
pub fn run(data: &[u8]) {
    static WORLD: LazyLock<Option<World>> = LazyLock::new(World::new);
    let mut u = Unstructured::new(data);
    // The bytes ended early: nothing to judge.
    let Ok(documents) = generate::policies(&mut u) else {
        return;
    };
    let policies: Vec<Policy> = documents.iter().filter_map(lower).collect();
    let world = WORLD.as_ref().expect("a world of valid labels");
    let resolved = world.resolve(&policies);
    if resolved.error.is_none() {
        world.agree(&policies, &resolved);
    }
    let mut reversed = policies.clone();
    reversed.reverse();
    let other = world.resolve(&reversed);
    assert_eq!(resolved.error.is_some(), other.error.is_some());
    assert_eq!(resolved.table, other.table, "the order of policies matters");

    let Some(denial) = generate::denial(&mut u).ok().as_ref().and_then(lower) else {
        return;
    };
    let mut more = policies;
    more.push(denial);
    let stricter = world.resolve(&more);
    for (direction, packet) in world.probes() {
        assert!(
            !allows(&stricter, direction, packet) || allows(&resolved, direction, packet),
            "a denial allows {packet:?} ({direction:?}): {documents:?}"
        );
    }
}

/// An object as the agent reads it from a file; none if it is refused.
pub(crate) fn lower(object: &Value) -> Option<Policy> {
    let text = object.to_string();
    let read = reader::read_lossy(text.as_bytes(), &Limits::default());
    assert_eq!(read.error, None, "JSON that is not read: {text}");
    let documents = read.documents;
    lower_policy(documents.first()?, None, &LowerConfig::default())
        .ok()
        .map(|lowered| lowered.policy)
}

fn allows(policy: &SubjectPolicy, direction: Direction, packet: Packet) -> bool {
    policy
        .table
        .direction(direction)
        .lookup(packet, 0)
        .is_some_and(|(_, entry)| !entry.precedence.is_deny())
}

struct World {
    identities: Identities,
    subject: SubjectView,
}

impl World {
    fn new() -> Option<Self> {
        let mut identities = Identities::default();
        for (number, labels) in PODS {
            let labels: IdentityLabels = labels
                .iter()
                .map(|label| Label::parse(label))
                .chain([Ok(Label::cluster("default"))])
                .collect::<Result<_, _>>()
                .ok()?;
            let mut named_ports = NamedPorts::default();
            named_ports.insert("http", Protocol::TCP, 80);
            let identity = Identity {
                labels,
                named_ports,
            };
            identities.insert(NumericIdentity(number), identity);
        }
        let prefixes: Vec<IpNet> = PREFIXES
            .iter()
            .filter_map(|(prefix, _)| prefix.parse().ok())
            .collect();
        for (number, (prefix, world)) in (NumericIdentity::FIRST_CIDR + 1..).zip(PREFIXES) {
            let prefix: IpNet = prefix.parse().ok()?;
            let covering = prefixes.iter().filter(|wide| wide.contains(&prefix));
            let labels = covering.copied().map(Label::cidr);
            let identity = Identity {
                labels: labels.chain([Label::reserved(world)]).collect(),
                named_ports: NamedPorts::default(),
            };
            identities.insert(NumericIdentity(number), identity);
        }
        let of = identities.get(NumericIdentity(1000))?;
        let subject = SubjectView {
            labels: of.labels.clone(),
            named_ports: of.named_ports.clone(),
        };
        Some(Self {
            identities,
            subject,
        })
    }

    fn resolve(&self, policies: &[Policy]) -> SubjectPolicy {
        let resolved = resolve(
            policies,
            &self.identities,
            &self.subject,
            &PolicyConfig::default(),
        );
        if resolved.error.is_some() {
            assert!(
                resolved.table.is_empty(),
                "an error that leaves something allowed"
            );
        }
        resolved
    }

    /// Table and rules agree on every probe.
    fn agree(&self, policies: &[Policy], resolved: &SubjectPolicy) {
        let config = PolicyConfig::default();
        for (direction, packet) in self.probes() {
            let by_rules = judge(
                policies,
                &self.identities,
                &self.subject,
                &config,
                direction,
                packet,
            );
            let table = resolved.table.direction(direction);
            assert_eq!(by_rules.enforced, table.enforced, "{direction:?}");
            let by_table = Outcome::of(table.lookup(packet, 0).map(|(_, entry)| entry));
            assert_eq!(by_table, by_rules.outcome, "{direction:?} {packet:?}");
        }
    }

    fn probes(&self) -> impl Iterator<Item = (Direction, Packet)> {
        let l4 = [
            (Protocol::TCP, 0),
            (Protocol::TCP, 80),
            (Protocol::TCP, 81),
            (Protocol::TCP, 65_535),
            (Protocol::UDP, 53),
            (Protocol::SCTP, 80),
            (Protocol::ICMP, 8),
            (Protocol::ICMPV6, 128),
            (Protocol(47), 0),
        ];
        self.identities.iter().flat_map(move |(identity, _)| {
            l4.into_iter().flat_map(move |(protocol, port)| {
                let packet = Packet {
                    identity,
                    protocol,
                    port,
                };
                [Direction::Ingress, Direction::Egress].map(|direction| (direction, packet))
            })
        })
    }
}
