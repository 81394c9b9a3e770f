//! What policy entries decided is counted for each endpoint, and forgotten with it.

use anyhow::{Result, ensure};
use oxilium_abi::{Direction, PolicyCountKey};
use oxilium_datapath::testing::{PolicyEntry, World, tcp};
use oxilium_e2e::require::{Need, require};
use oxilium_kernel::Node as _;
use oxilium_model::plan::Write;
use oxilium_program_tests::{enter_namespace, hooks::Hooks, node::PinnedNode};

const SYN: u8 = 2;
const ACK: u8 = 16;

#[test]
fn an_entry_has_the_packets_for_which_policy_was_asked() -> Result<()> {
    if !require(&[Need::Root, Need::Bpf]) {
        return Ok(());
    }
    enter_namespace()?;
    let mut node = PinnedNode::open()?;
    let web = PolicyEntry::allow(Direction::Ingress, World::PEER, 6, 80);
    let ssh = PolicyEntry::allow(Direction::Ingress, 0, 6, 22).denied();
    for write in World::writes(&[web, ssh]) {
        node.write(&write)?;
    }
    let hooks = Hooks::of(&node)?;
    let passes = |client, port, flags| {
        let frame = World::to4(World::PEER4, 6, &tcp(client, port, flags, &[]));
        hooks.passes(Direction::Ingress, &frame)
    };
    for client in 4000..4005 {
        for flags in [SYN, ACK, ACK] {
            ensure!(passes(client, 80, flags)?);
        }
        ensure!(!passes(client, 22, SYN)?);
    }
    let key = |entry: &PolicyEntry| PolicyCountKey::of(World::ENDPOINT, &entry.key(World::TABLE));
    let counts = node.node.policy_counts()?;
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert_eq!(counts[&key(&web)].packets, 5, "a packet for each flow");
    assert_eq!(counts[&key(&ssh)].packets, 5);
    assert_eq!(counts[&key(&web)].bytes, counts[&key(&ssh)].bytes);

    node.node.apply(&Write::PurgeConntrack {
        endpoint: World::ENDPOINT,
    })?;
    assert_eq!(node.node.policy_counts()?.len(), 0);
    Ok(())
}
