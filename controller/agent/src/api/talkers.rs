//! Who fills the conntrack tables.

use std::collections::BTreeMap;

use oxilium_api::ConntrackTalker;
use oxilium_kernel::port::{CtTable, Flow};
use oxilium_model::identity::NumericIdentity;

use crate::reconcile::View;

/// The flows of each endpoint with each identity, the most first.
pub(super) fn talkers(flows: &[Flow], view: &View) -> Vec<ConntrackTalker> {
    let mut sums: BTreeMap<(u16, u32), ConntrackTalker> = BTreeMap::new();
    for flow in flows {
        let (endpoint, identity) = (flow.endpoint, flow.entry.remote_identity);
        let talker = sums.entry((endpoint, identity)).or_insert_with(|| {
            let pod = view.state.endpoints.get(&endpoint);
            ConntrackTalker {
                endpoint,
                pod: pod.map(|endpoint| endpoint.pod.to_string()),
                identity,
                labels: view.labels(NumericIdentity(identity)),
                ..ConntrackTalker::default()
            }
        });
        *match flow.table {
            CtTable::Answered => &mut talker.answered,
            CtTable::Unanswered => &mut talker.unanswered,
            CtTable::Denied => &mut talker.denied,
        } += 1;
        talker.packets += flow.entry.rx_packets + flow.entry.tx_packets;
        talker.bytes += flow.entry.rx_bytes + flow.entry.tx_bytes;
    }
    let mut talkers: Vec<ConntrackTalker> = sums.into_values().collect();
    talkers.sort_by_key(|talker| std::cmp::Reverse(talker.flows()));
    talkers
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use oxilium_abi::CtEntry;

    use super::*;

    fn flow(endpoint: u16, remote_identity: u32, table: CtTable) -> Flow {
        Flow {
            table,
            local: IpAddr::V4(Ipv4Addr::LOCALHOST),
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
            local_port: 1,
            remote_port: 2,
            endpoint,
            protocol: 6,
            kind: None,
            entry: CtEntry {
                remote_identity,
                rx_packets: 1,
                tx_packets: 2,
                rx_bytes: 10,
                tx_bytes: 20,
                ..CtEntry::default()
            },
            remaining: 1,
        }
    }

    #[test]
    fn whoever_holds_most_flows_comes_first_and_tables_are_told_apart() {
        let flows = [
            flow(1, 9, CtTable::Answered),
            flow(2, 9, CtTable::Unanswered),
            flow(2, 9, CtTable::Unanswered),
            flow(2, 9, CtTable::Denied),
            flow(2, 300, CtTable::Answered),
        ];
        let seen: Vec<_> = talkers(&flows, &View::default())
            .into_iter()
            .map(|talker| {
                let tables = (talker.answered, talker.unanswered, talker.denied);
                let traffic = (talker.packets, talker.bytes);
                (talker.endpoint, talker.identity, tables, traffic)
            })
            .collect();
        assert_eq!(
            seen,
            [
                (2, 9, (0, 2, 1), (9, 90)),
                (1, 9, (1, 0, 0), (3, 30)),
                (2, 300, (1, 0, 0), (3, 30)),
            ]
        );
    }
}
