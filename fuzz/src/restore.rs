//! An agent starts and finds pinned maps: of another world, half written, damaged, or filled by somebody else.
//!
//! From whatever is there one plan leads to what should be there, a second plan is empty, and on the way no number is
//! published that was not taken before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use arbitrary::{Result, Unstructured};
use oxilium_abi::{
    Be16, Direction, EndpointWord, InterfaceConfig, IpcacheKey, IpcacheValue, NODE_WORDS,
    PolicyKey, PolicyValue, ShapeWord,
};
use oxilium_model::{
    desired,
    identity::NamedPorts,
    label::Label,
    node_state::{AttachPoint, EntryKey, Hook, NodeState, ProgramTag},
    observed::{AttachedProgram, Observed, Place},
    plan::{self, Plan, PlanError, Write, plan},
    world::{
        Attachment, AttachmentId, Complete, Device, Lifecycle, NodeConfig, Pod, PodRef, Source,
        Synced, World,
    },
};
use serde_json::json;

use crate::{policies::lower, tables::apply};

/// What was pinned by, or is wanted by, one of these.
static WORLDS: LazyLock<[World; 3]> = LazyLock::new(|| [world(2, 0), world(3, 80), world(4, 443)]);

/// One start.
pub fn run(data: &[u8]) {
    // Where the bytes end early there is nothing to judge.
    start(&mut Unstructured::new(data)).ok();
}

fn start(u: &mut Unstructured<'_>) -> Result<()> {
    let mut tables = Observed::default();
    let before = &WORLDS[u.int_in_range(0..=2)?];
    let plan = next(&tables, before, &desired(before)).unwrap_or_default();
    let done = u.int_in_range(0..=plan.steps().len())?;
    for write in plan.writes().take(done) {
        apply(&mut tables, write);
    }
    for _ in 0..u.int_in_range(0..=12)? {
        damage(&mut tables, u)?;
    }
    settle(&mut tables, &WORLDS[u.int_in_range(0..=2)?]);
    Ok(())
}

fn next(
    tables: &Observed,
    world: &World,
    state: &NodeState,
) -> core::result::Result<Plan, PlanError> {
    plan(tables, state, &world.config, complete())
}

fn settle(tables: &mut Observed, world: &World) {
    let state = desired(world);
    let planned = next(tables, world, &state);
    // Damage can take the last epoch; then nothing more is to be changed.
    if planned == Err(PlanError::EpochsExhausted) {
        return;
    }
    let plan = planned.expect("a plan from whatever is there");
    for write in plan.writes() {
        apply(tables, write);
        if let Write::Publish(epoch) = write {
            assert_eq!(
                *epoch,
                tables.high_water(),
                "published, but not taken before"
            );
        }
    }
    holds(tables, &state);
    let again = next(tables, world, &state).expect("a plan from a state that a plan has made");
    assert!(again.is_empty(), "a second plan:\n{again}\nafter\n{plan}");
}

/// The tables say what the state says, of all that a packet can meet.
fn holds(tables: &Observed, state: &NodeState) {
    assert!(tables.interfaces.keys().eq(state.interfaces.keys()));
    // A program on a hook of nobody's interface stays: without a configuration it lets nothing through.
    for (point, tag) in &state.attachments {
        let there = tables.attachments.get(point);
        assert!(there.is_some_and(|there| there.tag == *tag && there.place != Place::Misplaced));
    }
    assert_eq!(tables.published(), tables.high_water());
    assert_eq!(tables.ipcache.len(), state.ipcache.len());
    for (prefix, target) in &state.ipcache {
        let there = tables.ipcache[&plan::ipcache_key(*prefix)];
        assert_eq!(
            [0, 1].map(|bank| there.identity(bank)),
            [target.identity.0; 2]
        );
    }
    let mut used = BTreeSet::new();
    for interface in state.interfaces.values() {
        let [first, second] = tables.endpoint_word(interface.endpoint);
        assert_eq!(first, second, "banks are not level");
        assert!(first.epoch() <= tables.published());
        used.insert(first.table());
        let wanted = &state.endpoints[&interface.endpoint].policy.table.0;
        let found: BTreeMap<_, _> = tables
            .table(first.table())
            .map(|(key, value)| (EntryKey::of(key), *value))
            .collect();
        let wanted: BTreeMap<_, _> = wanted
            .iter()
            .map(|(key, value)| (*key, value.sealed(&key.in_table(first.table()))))
            .collect();
        assert_eq!(found, wanted, "table of endpoint {}", interface.endpoint);
    }
    assert!(tables.policy.keys().all(|key| used.contains(&key.table)));
    for config in tables.interfaces.values() {
        assert!(config.birth <= tables.published().get(), "born after G");
    }
}

/// One thing that is not as an agent would have left it.
fn damage(tables: &mut Observed, u: &mut Unstructured<'_>) -> Result<()> {
    let small = u.int_in_range(0..=5_u32)?;
    let direction = *u.choose(&[Direction::Ingress, Direction::Egress])?;
    match u.int_in_range(0..=9)? {
        0 => {
            let slot = u.int_in_range(0..=NODE_WORDS as usize - 1)?;
            tables.node_words[slot] = number(u)?;
        }
        1 => {
            let endpoint = u.int_in_range(0..=6)?;
            let words = tables.endpoint_words.entry(endpoint).or_default();
            words[usize::from(u.arbitrary::<bool>()?)] = EndpointWord(number(u)?);
        }
        2 => {
            let key = PolicyKey {
                table: small,
                identity: u.int_in_range(0..=300)?,
                port: Be16::new(u.arbitrary()?),
                protocol: *u.choose(&[0, 6, 17])?,
                direction_shape: u.arbitrary()?,
            };
            let value = PolicyValue {
                word: u.arbitrary()?,
                check: u.arbitrary()?,
            };
            tables.policy.insert(key, value);
        }
        3 => {
            tables
                .shapes
                .insert((small, direction), ShapeWord(number(u)?));
            tables.shapes.retain(|_, word| word.0 != 0);
        }
        4 => {
            let prefix = *u.choose(&["0.0.0.0/0", "10.0.0.1/32", "10.0.0.0/8", "::/0"])?;
            let key = plan::ipcache_key(
                prefix
                    .parse()
                    .map_err(|_| arbitrary::Error::IncorrectFormat)?,
            );
            let value = IpcacheValue {
                identities: u.arbitrary()?,
                ..IpcacheValue::default()
            };
            tables.ipcache.insert(key, value);
        }
        5 => {
            let config = InterfaceConfig {
                birth: number(u)?,
                endpoint: u.int_in_range(0..=6)?,
                ifindex: u.int_in_range(0..=20)?,
                ..InterfaceConfig::default()
            };
            tables.interfaces.insert(10 + small, config);
        }
        6 => drop(tables.interfaces.pop_first()),
        7 => {
            let point = AttachPoint {
                ifindex: 10 + small,
                hook: *u.choose(&Hook::ALL)?,
            };
            let program = AttachedProgram {
                tag: ProgramTag(u.arbitrary()?),
                place: *u.choose(&[Place::Settled, Place::Staged, Place::Misplaced])?,
            };
            tables.attachments.insert(point, program);
        }
        8 => {
            let count = tables.policy.len();
            if let Some((_, value)) = tables.policy.iter_mut().nth(u.choose_index(count.max(1))?) {
                value.check ^= u64::from(small);
            }
        }
        _ => {
            let key = IpcacheKey::v4([10, 0, 0, u.arbitrary()?], u.int_in_range(0..=40)?);
            tables.ipcache.insert(key, IpcacheValue::level(small));
        }
    }
    Ok(())
}

/// Often one that means something: small, or with every bit.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=3)? {
        0 => u.int_in_range(0..=4)?,
        1 => (u.int_in_range(0..=4_u64)? << 40) | u.int_in_range(0..=4_u64)?,
        2 => u.arbitrary()?,
        _ => u64::MAX >> u.int_in_range(0..=63)?,
    })
}

fn complete() -> Complete {
    let mut synced = Synced::default();
    for source in Source::ALL {
        synced.first_list_delivered(source);
    }
    synced.complete().expect("every source has delivered")
}

/// A node with some pods and, if `port` is not 0, a policy over them.
fn world(pods: u8, port: u16) -> World {
    let config = NodeConfig {
        boot_id: "boot".into(),
        programs: Hook::ALL.map(|hook| (hook, ProgramTag([1; 8]))).into(),
        ..NodeConfig::default()
    };
    let mut world = World {
        config: config.into(),
        ..World::default()
    };
    for number in 1..=pods {
        let reference = PodRef::new("default", &format!("pod{number}"));
        let address = std::net::IpAddr::from([10, 0, 0, number]);
        let app = if number % 2 == 0 { "a" } else { "b" };
        let pod = Pod {
            reference: reference.clone(),
            uid: "".into(),
            labels: Label::of_pod("app", app).into_iter().collect(),
            service_account: None,
            addresses: vec![address],
            named_ports: NamedPorts::default(),
            node: None,
            host_network: false,
        };
        world.pods.insert(reference.clone(), pod.into());
        let id = AttachmentId {
            container: format!("c{number}").into(),
            interface: "eth0".into(),
        };
        let attachment = Attachment {
            id: id.clone(),
            pod: reference,
            pod_uid: "".into(),
            boot_id: "boot".into(),
            lifecycle: Lifecycle::Added,
            device: Some(Device {
                ifindex: 10 + u32::from(number),
                name: "veth".into(),
                host_mac: [2, 0, 0, 0, 1, number],
                mac: [2, 0, 0, 0, 0, number],
                addresses: [address].into(),
                link_local: None,
                ipv6_prefix_length: None,
                netns_id: Some(i32::from(number)),
            }),
        };
        world.attachments.insert(id, attachment.into());
    }
    if port != 0 {
        let policy = lower(&json!({
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": { "name": "p", "namespace": "default" },
            "spec": {
                "endpointSelector": { "matchLabels": { "app": "a" } },
                "ingress": [{
                    "fromEndpoints": [{ "matchLabels": { "app": "b" } }],
                    "toPorts": [{ "ports": [{ "port": port.to_string(), "protocol": "TCP" }] }],
                }],
            },
        }));
        let policy = policy.expect("a valid policy");
        world
            .policies
            .insert(policy.reference.clone(), policy.into());
    }
    world
}
