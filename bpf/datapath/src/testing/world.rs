//! A small node for stories: one pod and its neighbours.

use oxilium_abi::{
    AuthRequirement, Be16, EndpointWord, Epoch, InterfaceConfig, IpcacheKey, IpcacheValue,
    IpcacheWord, NETNS_UNKNOWN, NodeWord, PolicyKey, PolicyValue, Precedence, ShapeMask, ShapeWord,
    endpoint_word_index, shape_word_index,
};

use super::{Frame, Ipv4, Ipv6, Write, ethernet};
use crate::Direction;

/// A policy entry in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEntry {
    /// Of the flow.
    pub direction: Direction,
    /// Remote identity; 0 any, 11…14 aggregates.
    pub identity: u32,
    /// IP protocol; 0 any.
    pub protocol: u8,
    /// Port in host order.
    pub port: u16,
    /// Bits of the port that count; none where the protocol is any.
    pub prefix: Option<u8>,
    /// As the table has it.
    pub precedence: u32,
    /// Proxy port, 0 none.
    pub proxy_port: u16,
    /// Authentication.
    pub auth: u8,
}

impl PolicyEntry {
    /// A plain allow of one port.
    #[must_use]
    pub const fn allow(direction: Direction, identity: u32, protocol: u8, port: u16) -> Self {
        Self {
            direction,
            identity,
            protocol,
            port,
            prefix: Some(16),
            precedence: 0xFFFF_FF01,
            proxy_port: 0,
            auth: 0,
        }
    }

    /// A plain allow of everything.
    #[must_use]
    pub const fn allow_all(direction: Direction, identity: u32) -> Self {
        Self {
            direction,
            identity,
            protocol: 0,
            port: 0,
            prefix: None,
            precedence: 0xFFFF_FF01,
            proxy_port: 0,
            auth: 0,
        }
    }

    /// The same, denied.
    #[must_use]
    pub const fn denied(mut self) -> Self {
        self.precedence |= 0xFF;
        self
    }

    const fn shape(&self) -> u32 {
        ShapeMask::shape(self.prefix)
    }

    /// Its key in `table`.
    #[must_use]
    pub const fn key(&self, table: u32) -> PolicyKey {
        PolicyKey {
            table,
            identity: self.identity,
            port: Be16::new(self.port & ShapeMask::port_mask(self.shape())),
            protocol: self.protocol,
            direction_shape: PolicyKey::pack(self.direction, self.shape()),
        }
    }

    const fn value(&self, table: u32) -> PolicyValue {
        let auth = AuthRequirement(self.auth);
        PolicyValue::new(
            &self.key(table),
            Precedence(self.precedence),
            self.proxy_port,
            auth,
        )
    }

    /// The write that puts it in `table`.
    #[must_use]
    pub const fn write(&self, table: u32) -> Write {
        Write::Policy(self.key(table), Some(self.value(table)))
    }
}

/// Names of a node with one pod.
pub struct World;

impl World {
    /// Interface of the pod.
    pub const IFINDEX: u32 = 7;
    /// Interface of the neighbour pod, and any other that packets come in through.
    pub const OTHER_IFINDEX: u32 = 8;
    /// Endpoint id.
    pub const ENDPOINT: u16 = 42;
    /// Policy table of the pod.
    pub const TABLE: u32 = 5;
    /// Identity of the peer pod.
    pub const PEER: u32 = 10_003;
    /// MAC of the pod.
    pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    /// MAC of the rest of the world.
    pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    /// The pod.
    pub const POD4: [u8; 4] = [10, 0, 0, 7];
    /// The pod.
    pub const POD6: [u8; 16] = address6(7);
    /// Link-local address of the pod.
    pub const LINK_LOCAL: [u8; 16] = link_local(7);
    /// The peer pod.
    pub const PEER4: [u8; 4] = [10, 0, 0, 8];
    /// The peer pod.
    pub const PEER6: [u8; 16] = address6(8);
    /// Identity of the second peer pod.
    pub const SECOND: u32 = 10_005;
    /// The second peer pod.
    pub const SECOND4: [u8; 4] = [10, 0, 0, 9];
    /// The second peer pod.
    pub const SECOND6: [u8; 16] = address6(9);
    /// A service's frontend.
    pub const SERVICE4: [u8; 4] = [10, 96, 0, 10];
    /// A service's frontend.
    pub const SERVICE6: [u8; 16] = address6(96);
    /// This host.
    pub const HOST4: [u8; 4] = [10, 0, 0, 1];
    /// This host.
    pub const HOST6: [u8; 16] = address6(1);
    /// Somebody.
    pub const WORLD4: [u8; 4] = [192, 0, 2, 9];
    /// Somebody.
    pub const WORLD6: [u8; 16] = [0x20, 1, 0xD, 0xB8, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 9];
    /// Id of the pod's network namespace.
    pub const NETNS: u32 = 3;

    /// The pod's interface.
    #[must_use]
    pub const fn config() -> InterfaceConfig {
        InterfaceConfig {
            birth: 1,
            ipv4: [Self::POD4, [0; 4]],
            ipv6: [Self::POD6, [0; 16]],
            link_local: [Self::LINK_LOCAL, [0; 16]],
            mac: Self::MAC,
            endpoint: Self::ENDPOINT,
            flags: 0,
            netns_id: NETNS_UNKNOWN,
            identity: 10_001,
            ifindex: Self::IFINDEX,
        }
    }

    /// The node at epoch 1 with `policy`.
    #[must_use]
    pub fn writes(policy: &[PolicyEntry]) -> Vec<Write> {
        let mut writes = vec![
            Write::Interface(Self::IFINDEX, Some(Self::config())),
            Self::address(IpcacheKey::v4(Self::PEER4, 32), Self::PEER),
            Self::address(IpcacheKey::v6(Self::PEER6, 128), Self::PEER),
            Self::address(IpcacheKey::v4(Self::SECOND4, 32), Self::SECOND),
            Self::address(IpcacheKey::v6(Self::SECOND6, 128), Self::SECOND),
            Self::address(IpcacheKey::v4(Self::HOST4, 32), 1),
            Self::address(IpcacheKey::v6(Self::HOST6, 128), 1),
        ];
        writes.extend(Self::policy(Self::TABLE, policy));
        writes.extend(Self::switch(Self::TABLE, 1));
        writes
    }

    /// The identity of a prefix, in both banks.
    #[must_use]
    pub const fn address(key: IpcacheKey, identity: u32) -> Write {
        Write::Ipcache(key, Some(IpcacheValue::level(identity)))
    }

    /// Entries of a table and the shapes that they have.
    #[must_use]
    pub fn policy(table: u32, entries: &[PolicyEntry]) -> Vec<Write> {
        let mut writes: Vec<_> = entries.iter().map(|entry| entry.write(table)).collect();
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut masks = [0; 3];
            for entry in entries.iter().filter(|entry| entry.direction == direction) {
                let kind = match entry.identity {
                    0 => 2,
                    11..=14 => 1,
                    _ => 0,
                };
                masks[kind] |= 1 << entry.shape();
            }
            let [specific, aggregate, any] = masks.map(ShapeMask);
            let mut word = ShapeWord::new(specific, aggregate, any);
            let restricts = |entry: &PolicyEntry| entry.value(table).restricts(&entry.key(table));
            if entries
                .iter()
                .any(|entry| entry.direction == direction && restricts(entry))
            {
                word = word.restricting();
            }
            let index = shape_word_index(table, direction);
            writes.push(Write::Shapes(index, word.0));
        }
        writes
    }

    /// The end of a plan: the endpoint uses `table` from `epoch` on, and G says so.
    #[must_use]
    pub fn switch(table: u32, epoch: u64) -> Vec<Write> {
        let word = EndpointWord::new(table, Epoch::new(epoch)).0;
        let ipcache = IpcacheWord::new(0, Epoch::new(epoch)).0;
        vec![
            Write::NodeWord(NodeWord::HighWater, epoch),
            Write::EndpointWord(endpoint_word_index(Self::ENDPOINT, 0), word),
            Write::EndpointWord(endpoint_word_index(Self::ENDPOINT, 1), word),
            Write::NodeWord(NodeWord::Ipcache, ipcache),
            Write::NodeWord(NodeWord::Published, epoch),
        ]
    }

    /// A frame from the pod.
    #[must_use]
    pub fn from_pod(ether_type: u16, payload: &[u8]) -> Frame {
        Frame {
            bytes: ethernet(Self::MAC, Self::GATEWAY_MAC, ether_type, payload),
            ifindex: Self::IFINDEX,
            ..Frame::default()
        }
    }

    /// A frame to the pod that came in through another interface.
    #[must_use]
    pub fn to_pod(ether_type: u16, payload: &[u8]) -> Frame {
        Frame {
            bytes: ethernet(Self::GATEWAY_MAC, Self::MAC, ether_type, payload),
            ifindex: Self::IFINDEX,
            ingress_ifindex: Self::OTHER_IFINDEX,
            ..Frame::default()
        }
    }

    /// An IPv4 packet from the pod.
    #[must_use]
    pub fn from4(destination: [u8; 4], protocol: u8, payload: &[u8]) -> Frame {
        Self::from_pod(
            0x0800,
            &Ipv4::new(Self::POD4, destination, protocol).with(payload),
        )
    }

    /// An IPv4 packet to the pod.
    #[must_use]
    pub fn to4(source: [u8; 4], protocol: u8, payload: &[u8]) -> Frame {
        Self::to_pod(
            0x0800,
            &Ipv4::new(source, Self::POD4, protocol).with(payload),
        )
    }

    /// An IPv6 packet from the pod.
    #[must_use]
    pub fn from6(destination: [u8; 16], next: u8, payload: &[u8]) -> Frame {
        Self::from_pod(
            0x86DD,
            &Ipv6::new(Self::POD6, destination, next).with(payload),
        )
    }

    /// An IPv6 packet to the pod.
    #[must_use]
    pub fn to6(source: [u8; 16], next: u8, payload: &[u8]) -> Frame {
        Self::to_pod(0x86DD, &Ipv6::new(source, Self::POD6, next).with(payload))
    }
}

const fn address6(host: u8) -> [u8; 16] {
    [0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

const fn link_local(host: u8) -> [u8; 16] {
    [0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}
