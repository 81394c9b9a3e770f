//! The incremental engine has the tables of the plain function, whatever the edits that led there.

mod policy_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use oxilium_abi::Direction;
use oxilium_model::identity::{Identities, Identity, NumericIdentity, Protocol};
use oxilium_model::policy::config::{AllowLocalhost, EnforcementMode, PolicyConfig};
use oxilium_model::policy::engine::{Engine, Follower, Policies};
use oxilium_model::policy::rule::Policy;
use oxilium_model::policy::table::Packet;
use oxilium_model::policy::{SubjectView, resolve, resolve_within};
use policy_support::{any_policy, cases, identities, labelled, pod, reference, remotes, view};
use proptest::prelude::*;

/// One edit of the world.
#[derive(Clone, Debug)]
enum Edit {
    Policy(Policy),
    RemovePolicy(&'static str),
    Identity(u32, Identity),
    RemoveIdentity(u32),
    Subject(u64, SubjectView),
    RemoveSubject(u64),
}

const POLICIES: [&str; 4] = ["p1", "p2", "p3", "p4"];
const NUMBERS: [u32; 8] = [1, 7, 10001, 10002, 10010, 131_073, 16_777_218, 33_554_433];

fn identity() -> impl Strategy<Value = Identity> {
    let app = prop::sample::select(vec!["a", "b", "c"]);
    let namespace = prop::sample::select(vec!["red", "blue"]);
    let ports = prop::sample::select(vec![
        &[][..],
        &[("http", 80)][..],
        &[("http", 81), ("other", 82)][..],
    ]);
    let odd = prop::sample::select(vec![
        labelled(&["reserved:host", "k8s:app=b"]),
        labelled(&["reserved:health"]),
        labelled(&["cidr:10.1.0.0/16", "reserved:world-ipv4"]),
        labelled(&["cidr:2001-db8--0/32", "reserved:world-ipv6"]),
        labelled(&["fqdn:a.test", "reserved:world-ipv4"]),
        labelled(&[
            "cidr:10.1.2.3/32",
            "reserved:kube-apiserver",
            "reserved:world-ipv4",
        ]),
        labelled(&[
            "reserved:remote-node",
            "k8s:io.cilium.k8s.policy.cluster=default",
        ]),
    ]);
    prop_oneof![
        3 => (app, namespace, ports).prop_map(|(app, ns, ports)| pod(app, ns, "default", ports)),
        2 => odd,
    ]
}

fn edit(auth: bool) -> impl Strategy<Value = Edit> {
    let policy = |name| any_policy(name, auth).prop_map(Edit::Policy);
    let number = || prop::sample::select(NUMBERS.to_vec());
    prop_oneof![
        2 => policy("p1"),
        1 => policy("p2"),
        1 => policy("p3"),
        1 => policy("p4"),
        1 => prop::sample::select(POLICIES.to_vec()).prop_map(Edit::RemovePolicy),
        4 => (number(), identity()).prop_map(|(id, identity)| Edit::Identity(id, identity)),
        2 => number().prop_map(Edit::RemoveIdentity),
        2 => (0..3_u64, identity()).prop_map(|(subject, identity)| Edit::Subject(
            subject,
            SubjectView { labels: identity.labels, named_ports: identity.named_ports }
        )),
        1 => (0..3_u64).prop_map(Edit::RemoveSubject),
    ]
}

fn config() -> impl Strategy<Value = PolicyConfig> {
    let mode = prop::sample::select(vec![
        EnforcementMode::Default,
        EnforcementMode::Default,
        EnforcementMode::Always,
    ]);
    (mode, any::<bool>(), any::<bool>(), 0..2_u8).prop_map(
        |(mode, localhost, firewall, cluster_id)| PolicyConfig {
            mode,
            allow_localhost: if localhost {
                AllowLocalhost::Always
            } else {
                AllowLocalhost::Policy
            },
            host_firewall: firewall,
            cluster_id,
            ..PolicyConfig::default()
        },
    )
}

/// The world that the edits make, beside the engine that follows them.
struct Both {
    config: PolicyConfig,
    engine: Engine,
    policies: BTreeMap<String, Policy>,
    identities: Identities,
    subjects: BTreeMap<u64, SubjectView>,
}

impl Both {
    fn new(config: PolicyConfig) -> Self {
        let mut both = Self {
            engine: Engine::new(config.clone()),
            config,
            policies: BTreeMap::new(),
            identities: Identities::default(),
            subjects: BTreeMap::new(),
        };
        let identities = identities();
        for (id, identity) in identities.iter() {
            both.apply(Edit::Identity(id.0, identity.clone()));
        }
        for (subject, id) in [(0, 10001), (1, 1), (2, 10003)] {
            both.apply(Edit::Subject(
                subject,
                view(&identities, NumericIdentity(id)),
            ));
        }
        both
    }

    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Policy(policy) => {
                self.policies
                    .insert(policy.reference.name.to_string(), policy.clone());
                self.engine
                    .set_policy(&policy.reference.clone(), Some(Arc::new(policy)));
            }
            Edit::RemovePolicy(name) => {
                self.policies.remove(name);
                self.engine.set_policy(&reference(name), None);
            }
            Edit::Identity(id, identity) => {
                self.identities
                    .insert(NumericIdentity(id), identity.clone());
                self.engine
                    .set_identity(NumericIdentity(id), Some(identity));
            }
            Edit::RemoveIdentity(id) => {
                self.identities.remove(NumericIdentity(id));
                self.engine.set_identity(NumericIdentity(id), None);
            }
            Edit::Subject(subject, view) => {
                self.subjects.insert(subject, view.clone());
                self.engine.set_subject(subject, Some(view));
            }
            Edit::RemoveSubject(subject) => {
                self.subjects.remove(&subject);
                self.engine.set_subject(subject, None);
            }
        }
    }

    /// What a follower says of this world, within a quota, and what the plain function says.
    fn follow(&self, follower: &mut Follower, available: usize) -> Result<(), TestCaseError> {
        let policies: Vec<Policy> = self.policies.values().cloned().collect();
        let by_name: Policies = policies
            .iter()
            .map(|policy| (policy.reference.clone(), Arc::new(policy.clone())))
            .collect();
        let subjects: Vec<SubjectView> = self.subjects.values().cloned().collect();
        let identities = Arc::new(self.identities.clone());
        let followed = follower.follow(&self.config, &by_name, &identities, &subjects, available);
        prop_assert_eq!(followed.len(), subjects.len());
        for (subject, followed) in subjects.iter().zip(followed) {
            let plain = resolve_within(&policies, &identities, subject, &self.config, available);
            prop_assert_eq!(&*followed, &plain);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let policies: Vec<Policy> = self.policies.values().cloned().collect();
        for subject in 0..3 {
            let plain = self
                .subjects
                .get(&subject)
                .map(|view| resolve(&policies, &self.identities, view, &self.config));
            prop_assert_eq!(&self.engine.subject_policy(subject), &plain);
            let (Some(policy), Some(plain)) = (self.engine.policy(subject), plain) else {
                continue;
            };
            prop_assert_eq!(policy.len(), plain.table.len());
            prop_assert_eq!(&policy.error, &plain.error);
            for identity in remotes(&self.identities) {
                for (protocol, port) in [
                    (Protocol::TCP, 80),
                    (Protocol::UDP, 53),
                    (Protocol::ICMP, 0),
                ] {
                    let packet = Packet {
                        identity,
                        protocol,
                        port,
                    };
                    let cluster = self.config.cluster_id;
                    let columns = policy.ingress.lookup(packet, cluster).map(|(key, _)| key);
                    let table = plain.table.direction(Direction::Ingress);
                    prop_assert_eq!(columns, table.lookup(packet, cluster).map(|(key, _)| *key));
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn the_engine_equals_the_plain_function_after_every_edit(
        config in config(),
        edits in prop::collection::vec(edit(false), 1..12),
    ) {
        let mut both = Both::new(config);
        for edit in edits {
            both.apply(edit);
            both.check()?;
        }
    }

    #[test]
    fn and_with_authentication(
        config in config(),
        edits in prop::collection::vec(edit(true), 1..12),
    ) {
        let mut both = Both::new(config);
        for edit in edits {
            both.apply(edit);
            both.check()?;
        }
    }

    #[test]
    fn a_follower_of_worlds_equals_the_plain_function_within_a_quota(
        configs in (config(), config()),
        available in prop::sample::select(vec![3, 12, 1000]),
        edits in prop::collection::vec(prop::collection::vec(edit(true), 1..4), 1..5),
    ) {
        let mut both = Both::new(configs.0.clone());
        let mut follower = Follower::new(configs.1);
        for step in edits {
            for edit in step {
                both.apply(edit);
            }
            both.follow(&mut follower, available)?;
        }
    }
}
