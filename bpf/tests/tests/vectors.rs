//! Tables of policies whose verdicts Cilium's own engine computed, in the real map and asked by the programs.

#![expect(clippy::print_stdout, reason = "a test prints what it counted")]

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use oxilium_abi::{Direction, DropReason, EndpointWord, Epoch, IpcacheKey, map};
use oxilium_datapath::testing::{Frame, World, icmp, sctp, tcp, udp};
use oxilium_e2e::require::{Need, require};
use oxilium_kernel::{Node as _, port::TryPacket};
use oxilium_manifest::vectors::{Case, IdentitySets, VectorFile};
use oxilium_model::{
    node_state::{EndpointPolicy, Hook},
    plan::Write,
    policy::Fitted,
};
use oxilium_program_tests::{
    enter_namespace,
    node::{PinnedNode, bpftool},
};
use serde_json::Value;

/// Cases whose verdicts are ours on purpose; `controller/manifest/tests/vectors.rs` says how.
const OURS: [&str; 5] = [
    "icmp/egress-v4-0-peer",
    "icmp/deny-v4-0",
    "icmp/ingress-v4-echoreply-name",
    "icmp/egress-v4-echoreply-name-peer",
    "auth/required-l4-plain-l3",
];

/// A table that is in the kernel.
struct Loaded<'a> {
    case: &'a Value,
    expected: &'a Value,
    table: u32,
}

/// The cases with policies that the programs can be asked about.
fn with_policies<'a>(
    cases: &'a [Case],
    reference: &'a [Value],
) -> impl Iterator<Item = (&'a Case, &'a Value)> {
    cases.iter().zip(reference).filter(|(case, reference)| {
        case.doc.is_none()
                && !OURS.contains(&case.name.as_str())
                // The programs have one cluster id.
                && reference["config"]["clusterID"].as_u64().unwrap_or_default() == 0
    })
}

/// Puts a subject's table into the map; how many entries it has.
fn load(
    node: &mut PinnedNode,
    case: &Case,
    sets: &IdentitySets,
    subject: u32,
    table: u32,
) -> Result<usize> {
    let policy = case.resolve(sets, subject)?;
    ensure!(policy.error.is_none(), "{}: {:?}", case.name, policy.error);
    for direction in [Direction::Ingress, Direction::Egress] {
        let word = policy.table.direction(direction).shapes();
        node.node.apply(&Write::ShapeWord {
            table,
            direction,
            word,
        })?;
    }
    let content = EndpointPolicy::of(Arc::new(Fitted {
        policy,
        overflow: Vec::new(),
    }));
    for (key, value) in &content.table.0 {
        let key = key.in_table(table);
        let value = value.sealed(&key);
        node.node.apply(&Write::PolicyInsert { key, value })?;
    }
    Ok(content.table.0.len())
}

/// Addresses by which a remote identity is known.
struct Addresses(BTreeMap<u32, u16>);

impl Addresses {
    fn of(&self, identity: u32) -> Option<([u8; 4], [u8; 16])> {
        let [high, low] = self.0.get(&identity)?.to_be_bytes();
        let mut long = World::WORLD6;
        long[13] = 1;
        (long[14], long[15]) = (high, low);
        Some(([172, 20, high, low], long))
    }

    fn give(&mut self, node: &mut PinnedNode, identity: u32) -> Result<()> {
        if self.0.contains_key(&identity) {
            return Ok(());
        }
        self.0.insert(identity, u16::try_from(self.0.len() + 1)?);
        let (short, long) = self.of(identity).context("just given")?;
        for key in [IpcacheKey::v4(short, 32), IpcacheKey::v6(long, 128)] {
            node.write(&World::address(key, identity))?;
        }
        Ok(())
    }
}

/// The packet that a probe stands for; none for what does not begin a flow.
fn frame(direction: Direction, remote: ([u8; 4], [u8; 16]), probe: &str) -> Result<Option<Frame>> {
    let (protocol, number) = probe.split_once('/').context("PROTOCOL/NUMBER")?;
    let port: u16 = number.parse()?;
    let echo = |kind| icmp(kind, 0, &[0, 1, 0, 1]);
    let (number, payload) = match (protocol, port) {
        ("TCP", _) => (6, tcp(1, port, 2, &[])),
        ("UDP", _) => (17, udp(1, port, &[])),
        ("SCTP", _) => (132, sctp(1, port)),
        ("ICMP", 8) => (1, echo(8)),
        ("ICMPv6", 128) => (58, echo(128)),
        _ => return Ok(None),
    };
    let (short, long) = remote;
    Ok(Some(match (direction, number) {
        (Direction::Egress, 58) => World::from6(long, number, &payload),
        (Direction::Ingress, 58) => World::to6(long, number, &payload),
        (Direction::Egress, _) => World::from4(short, number, &payload),
        (Direction::Ingress, _) => World::to4(short, number, &payload),
    }))
}

fn expected(letter: char) -> Result<Option<DropReason>> {
    Ok(match letter {
        'A' => None,
        'D' => Some(DropReason::PolicyDeny),
        '-' => Some(DropReason::PolicyDenied),
        'H' | 'N' | 'T' | 'C' => Some(DropReason::ProxyUnavailable),
        'a' | 'f' => Some(DropReason::AuthRequired),
        other => bail!("no verdict {other:?}"),
    })
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn numbers(list: &Value) -> impl Iterator<Item = u32> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .filter_map(|number| number.try_into().ok())
}

/// Asks the programs every probe of a table; counts what was asked, by letter.
fn probe(
    node: &mut PinnedNode,
    loaded: &Loaded<'_>,
    addresses: &Addresses,
    asked: &mut BTreeMap<char, usize>,
) -> Result<()> {
    for bank in [0, 1] {
        node.node.apply(&Write::EndpointWord {
            endpoint: World::ENDPOINT,
            bank,
            word: EndpointWord::new(loaded.table, Epoch::new(1)),
        })?;
    }
    for (direction, hook, rows) in [
        (Direction::Ingress, Hook::ToContainer, "verdictsIngress"),
        (Direction::Egress, Hook::FromContainer, "verdictsEgress"),
    ] {
        let remotes = numbers(&loaded.case["probeRemotes"]);
        for (remote, row) in remotes.zip(strings(&loaded.expected[rows])) {
            let Some(address) = addresses.of(remote) else {
                continue;
            };
            for (text, letter) in strings(&loaded.case["probeL4"]).zip(row.chars()) {
                let Some(frame) = frame(direction, address, text)? else {
                    continue;
                };
                let said = node.node.try_packet(&TryPacket {
                    hook,
                    ifindex: frame.ifindex,
                    // What came in through an interface is not the host's.
                    ingress_ifindex: if remote == 1 {
                        0
                    } else {
                        frame.ingress_ifindex
                    },
                    frame: frame.bytes,
                })?;
                ensure!(
                    said == expected(letter)?,
                    "{} subject {} {direction:?} {remote} {text}: {said:?}, the reference says {letter}",
                    loaded.case["name"],
                    loaded.expected["identity"],
                );
                *asked.entry(letter).or_default() += 1;
            }
        }
    }
    Ok(())
}

/// Loads a file's tables, has bpftool count them, and asks all probes. What was asked, by letter.
fn check(text: &str) -> Result<BTreeMap<char, usize>> {
    let sets = include_str!("../../../controller/manifest/tests/data/identity-sets.json");
    let sets: IdentitySets = serde_json::from_str(sets)?;
    let cases: VectorFile = serde_json::from_str(text)?;
    let reference: Value = serde_json::from_str(text)?;
    let reference = reference["cases"].as_array().context("cases")?;
    enter_namespace()?;
    let mut node = PinnedNode::open()?;
    for write in World::writes(&[]) {
        node.write(&write)?;
    }
    let mut addresses = Addresses(BTreeMap::new());
    let (mut tables, mut entries, mut theirs) = (Vec::new(), 0, 0);
    for (case, reference) in with_policies(&cases.cases, reference) {
        // 0 is no identity that an address has.
        for remote in case.probe_remotes.iter().filter(|remote| **remote != 0) {
            addresses.give(&mut node, *remote)?;
        }
        let subjects = reference["expect"]["subjects"].as_array();
        for (subject, expected) in case.subjects.iter().zip(subjects.context("subjects")?) {
            if !expected["error"].is_null() {
                continue;
            }
            let table = World::TABLE + 1 + u32::try_from(tables.len())?;
            entries += load(&mut node, case, &sets, *subject, table)?;
            theirs += expected["entries"].as_array().context("entries")?.len();
            tables.push(Loaded {
                case: reference,
                expected,
                table,
            });
        }
    }
    let dump = bpftool(&["map", "dump", "pinned"], &node.pin(map::POLICY), &[])?;
    let dump: Value = serde_json::from_str(&dump)?;
    let counted = dump.as_array().context("a list of entries")?.len();
    ensure!(
        counted == entries,
        "bpftool counts {counted}, loaded were {entries}"
    );
    ensure!(
        counted <= theirs,
        "{counted} entries, the reference has {theirs}"
    );

    let mut asked = BTreeMap::new();
    for loaded in &tables {
        probe(&mut node, loaded, &addresses, &mut asked)?;
    }
    println!(
        "{} tables, {counted} entries, asked: {asked:?}",
        tables.len()
    );
    ensure!(tables.len() >= 30, "only {} tables", tables.len());
    Ok(asked)
}

#[test]
fn designed_tables_say_in_the_kernel_what_cilium_s_engine_says() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf]) {
        return Ok(());
    }
    let asked = check(include_str!(
        "../../../controller/manifest/tests/data/hand.json"
    ))?;
    for letters in ["A", "D", "-", "HNTC", "af"] {
        let any = letters.chars().any(|letter| asked.contains_key(&letter));
        ensure!(any, "no probe of {letters}: {asked:?}");
    }
    Ok(())
}

#[test]
fn random_tables_say_in_the_kernel_what_cilium_s_engine_says() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf]) {
        return Ok(());
    }
    let asked = check(include_str!(
        "../../../controller/manifest/tests/data/random.json"
    ))?;
    ensure!(asked.len() > 2, "{asked:?}");
    Ok(())
}
