//! Interface configurations: what is there, what should be there, and the writes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use oxilium_abi::{ADDRESSES_PER_FAMILY, Epoch, InterfaceConfig, InterfaceFlags, NETNS_UNKNOWN};

use super::{Reason, Step, Write};
use crate::node_state::{Interface, NodeState};
use crate::observed::Observed;

/// The kernel's value for an interface of an endpoint that was made in `birth`.
pub fn interface_config(ifindex: u32, interface: &Interface, birth: Epoch) -> InterfaceConfig {
    let spoofing = if interface.allow_spoofing {
        InterfaceFlags::ALLOW_SPOOFING
    } else {
        0
    };
    let mut config = InterfaceConfig {
        birth: birth.get(),
        mac: interface.mac,
        endpoint: interface.endpoint,
        flags: spoofing
            | InterfaceFlags::with_prefix_length(interface.ipv6_prefix_length.unwrap_or_default()),
        netns_id: interface.netns_id.unwrap_or(NETNS_UNKNOWN),
        identity: interface.identity.0,
        ifindex,
        ..InterfaceConfig::default()
    };
    let v4 = interface
        .addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) => Some(v4.octets()),
            IpAddr::V6(_) => None,
        });
    let v6 = interface
        .addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V6(v6) => Some(v6.octets()),
            IpAddr::V4(_) => None,
        });
    let link_local = interface.link_local.iter().map(std::net::Ipv6Addr::octets);
    fill(&mut config.ipv4, v4);
    fill(&mut config.ipv6, v6);
    fill(&mut config.link_local, link_local);
    config
}

fn fill<A>(slots: &mut [A; ADDRESSES_PER_FAMILY], addresses: impl Iterator<Item = A>) {
    for (slot, address) in slots.iter_mut().zip(addresses) {
        *slot = address;
    }
}

/// What becomes of the interfaces.
#[derive(Debug, Default)]
pub(super) struct InterfaceDiff<'a> {
    /// Of no endpoint, or of another than the one behind that index now.
    stale: Vec<(u32, u16)>,
    /// New, with the endpoint's birth yet to come.
    new: Vec<(u32, &'a Interface)>,
    /// Of an endpoint that lives and keeps its birth.
    replaced: Vec<(u32, &'a Interface, Epoch)>,
    /// Endpoints behind an interface that is there and stays: packets may be on their way through them.
    pub(super) live: BTreeSet<u16>,
}

impl<'a> InterfaceDiff<'a> {
    pub(super) fn new(observed: &Observed, desired: &'a NodeState) -> Self {
        let last = observed.high_water().max(observed.published());
        let mut diff = Self::default();
        for (ifindex, config) in &observed.interfaces {
            let wanted = desired.interfaces.get(ifindex);
            if wanted.is_none_or(|wanted| wanted.endpoint != config.endpoint) {
                diff.stale.push((*ifindex, config.endpoint));
            }
        }
        for (ifindex, wanted) in &desired.interfaces {
            let there = observed
                .interfaces
                .get(ifindex)
                .filter(|config| config.endpoint == wanted.endpoint);
            let Some(there) = there else {
                diff.new.push((*ifindex, wanted));
                continue;
            };
            diff.live.insert(wanted.endpoint);
            let birth = Epoch::new(there.birth);
            if birth > last || there.ifindex != *ifindex {
                diff.new.push((*ifindex, wanted));
                continue;
            }
            // The identity is that of the time when the endpoint was made, and for events only.
            let mut config = interface_config(*ifindex, wanted, birth);
            config.identity = there.identity;
            if config != *there {
                diff.replaced.push((*ifindex, wanted, birth));
            }
        }
        diff
    }

    /// Endpoints that begin a life.
    pub(super) fn births(&self) -> BTreeSet<u16> {
        self.new
            .iter()
            .map(|(_, interface)| interface.endpoint)
            .collect()
    }

    /// What must go before its index, or its endpoint id, can serve another.
    pub(super) fn removal(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self
            .stale
            .iter()
            .map(|(ifindex, endpoint)| {
                Step::new(
                    Write::InterfaceDelete { ifindex: *ifindex },
                    Reason::GoneEndpoint(*endpoint),
                )
            })
            .collect();
        if !steps.is_empty() {
            steps.push(Step::new(Write::Barrier, Reason::Epoch));
        }
        steps
    }

    /// New and changed configurations. A value that is replaced under a reader leaves its element to the
    /// next write of the map: nothing is written there until no reader can have it.
    pub(super) fn writes(
        &self,
        birth: Epoch,
        observed: &BTreeMap<u32, InterfaceConfig>,
    ) -> Vec<Step> {
        let stale: BTreeSet<u32> = self.stale.iter().map(|(ifindex, _)| *ifindex).collect();
        let mut steps = Vec::new();
        let mut replace = |ifindex: u32, config, reason| {
            steps.push(Step::new(
                Write::InterfaceReplace { ifindex, config },
                reason,
            ));
            steps.push(Step::new(Write::Barrier, reason));
        };
        for (ifindex, interface, birth) in &self.replaced {
            let config = interface_config(*ifindex, interface, *birth);
            replace(*ifindex, config, Reason::Repair);
        }
        for (ifindex, interface) in &self.new {
            if observed.contains_key(ifindex) && !stale.contains(ifindex) {
                let config = interface_config(*ifindex, interface, birth);
                replace(*ifindex, config, Reason::Repair);
            }
        }
        for (ifindex, interface) in &self.new {
            if !observed.contains_key(ifindex) || stale.contains(ifindex) {
                let config = interface_config(*ifindex, interface, birth);
                steps.push(Step::new(
                    Write::InterfaceInsert {
                        ifindex: *ifindex,
                        config,
                    },
                    Reason::NewEndpoint(interface.endpoint),
                ));
            }
        }
        steps
    }
}
