//! The tables of the kernel, and what the programs make of them.

use std::net::IpAddr;

use oxilium_abi::{
    Direction, EndpointWord, Epoch, InterfaceConfig, NodeWord, PolicyKey, PolicyValue, ShapeMask,
    ShapeWord,
};
use oxilium_model::identity::NumericIdentity;
use oxilium_model::node_state::{AttachPoint, Hook};
use oxilium_model::observed::{AttachedProgram, Observed, Place};
use oxilium_model::plan::{Write, ipcache_prefix};

/// A kernel that refuses writes which contradict what it holds, as the real maps do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel(pub(crate) Observed);

/// A packet, as far as policy looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    pub(crate) endpoint: u16,
    pub(crate) direction: Direction,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    NoMatch,
    Denied,
    Redirected,
    NeedsAuthentication,
    Allowed,
}

impl Kernel {
    pub(crate) fn apply(&mut self, write: &Write) {
        let kernel = &mut self.0;
        match *write {
            Write::HighWater(epoch) => {
                kernel.node_words[NodeWord::HighWater as usize] = epoch.get();
            }
            Write::Publish(epoch) => kernel.node_words[NodeWord::Published as usize] = epoch.get(),
            Write::IpcacheWord(word) => kernel.node_words[NodeWord::Ipcache as usize] = word.0,
            Write::PolicyInsert { key, value } => {
                assert_eq!(kernel.policy.insert(key, value), None, "{write} is there");
            }
            Write::PolicyReplace { key, value } => {
                let old = kernel.policy.insert(key, value);
                assert!(
                    old.is_some_and(|old| old != value),
                    "{write} changes nothing"
                );
            }
            Write::PolicyDelete { key } => {
                assert!(kernel.policy.remove(&key).is_some(), "{write} is not there");
            }
            Write::ShapeWord {
                table,
                direction,
                word,
            } => {
                if word == ShapeWord::default() {
                    kernel.shapes.remove(&(table, direction));
                } else {
                    kernel.shapes.insert((table, direction), word);
                }
            }
            Write::IpcacheUpsert { key, value } => {
                assert_ne!(kernel.ipcache.insert(key, value), Some(value), "{write}");
            }
            Write::IpcacheDelete { key } => {
                assert!(kernel.ipcache.remove(&key).is_some(), "{write}");
            }
            Write::InterfaceInsert { ifindex, config } => {
                assert_eq!(kernel.interfaces.insert(ifindex, config), None, "{write}");
            }
            Write::InterfaceReplace { ifindex, config } => {
                assert!(kernel.interfaces.insert(ifindex, config).is_some());
            }
            Write::InterfaceDelete { ifindex } => {
                assert!(kernel.interfaces.remove(&ifindex).is_some(), "{write}");
            }
            Write::EndpointWord {
                endpoint,
                bank,
                word,
            } => {
                let words = kernel.endpoint_words.entry(endpoint).or_default();
                assert_ne!(words[bank as usize], word, "{write} changes nothing");
                words[bank as usize] = word;
                if *words == [EndpointWord::default(); 2] {
                    kernel.endpoint_words.remove(&endpoint);
                }
            }
            Write::Attach {
                point,
                program,
                staged,
                ..
            } => {
                let program = AttachedProgram {
                    tag: program,
                    place: if staged {
                        Place::Staged
                    } else {
                        Place::Settled
                    },
                };
                assert_eq!(kernel.attachments.insert(point, program), None);
            }
            Write::Replace { point, program, .. } => {
                let program = AttachedProgram {
                    tag: program,
                    place: Place::Settled,
                };
                assert_ne!(kernel.attachments.insert(point, program), Some(program));
            }
            Write::Detach { point } => {
                kernel.attachments.remove(&point);
            }
            Write::PurgeConntrack { endpoint } => {
                let used = kernel.interfaces.values().any(|c| c.endpoint == endpoint);
                assert!(!used, "{write} while packets pass through it");
            }
            Write::Barrier => {}
            _ => assert!(self.apply_to_services(write), "{write} is of no table"),
        }
    }

    /// Whether it is of the tables of services.
    fn apply_to_services(&mut self, write: &Write) -> bool {
        let kernel = &mut self.0;
        match *write {
            Write::Service { key, value } => {
                assert_ne!(kernel.services.insert(key, value), Some(value), "{write}");
            }
            Write::ServiceDelete { key } => {
                assert!(kernel.services.remove(&key).is_some(), "{write}");
            }
            Write::Backend { id, value } => {
                assert_ne!(kernel.backends.insert(id, value), Some(value), "{write}");
            }
            Write::BackendDelete { id } => {
                assert!(kernel.backends.remove(&id).is_some(), "{write}");
            }
            Write::ReverseNat { id, value } => {
                assert_ne!(kernel.reverse_nat.insert(id, value), Some(value), "{write}");
            }
            Write::ReverseNatDelete { id } => {
                assert!(kernel.reverse_nat.remove(&id).is_some(), "{write}");
            }
            Write::ServicesInUse(used) => {
                kernel.node_words[NodeWord::Services as usize] = u64::from(used);
            }
            _ => return false,
        }
        true
    }

    /// A device vanishes, and with it the programs on it.
    pub(crate) fn unplug(&mut self, ifindex: u32) {
        self.0
            .attachments
            .retain(|point, _| point.ifindex != ifindex);
    }

    fn interface(&self, endpoint: u16) -> Option<(&u32, &InterfaceConfig)> {
        self.0
            .interfaces
            .iter()
            .find(|(_, config)| config.endpoint == endpoint)
    }

    /// Packets of the endpoint are judged: its interface is known and has the program of that direction.
    pub(crate) fn judges(&self, endpoint: u16, direction: Direction) -> bool {
        let hook = match direction {
            Direction::Egress => Hook::FromContainer,
            Direction::Ingress => Hook::ToContainer,
        };
        self.interface(endpoint).is_some_and(|(ifindex, _)| {
            let point = AttachPoint {
                ifindex: *ifindex,
                hook,
            };
            self.0.attachments.contains_key(&point)
        })
    }

    /// The identity of an address: the longest prefix in the bank in use.
    pub(crate) fn identity(&self, address: IpAddr) -> NumericIdentity {
        let bank = self.0.ipcache_word().bank();
        self.0
            .ipcache
            .iter()
            .filter_map(|(key, value)| Some((ipcache_prefix(key)?, value)))
            .filter(|(prefix, _)| prefix.contains(&address))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map_or(
                if address.is_ipv4() {
                    NumericIdentity::WORLD_IPV4
                } else {
                    NumericIdentity::WORLD_IPV6
                },
                |(_, value)| NumericIdentity(value.identity(bank)),
            )
    }

    /// Judges a packet from the tables alone.
    pub(crate) fn verdict(&self, probe: &Probe) -> Verdict {
        self.verdict_of(probe, self.identity(probe.remote))
    }

    /// Judges a packet whose peer has this identity.
    pub(crate) fn verdict_of(&self, probe: &Probe, identity: NumericIdentity) -> Verdict {
        let table = self.0.endpoint_word_in_use(probe.endpoint).table();
        let shapes = self
            .0
            .shapes
            .get(&(table, probe.direction))
            .copied()
            .unwrap_or_default();
        if identity == NumericIdentity::UNRESOLVED && shapes.restricts() {
            return Verdict::NoMatch;
        }
        let kinds = [
            (identity, shapes.specific(), 2),
            (identity.aggregate(0), shapes.aggregate(), 1),
            (NumericIdentity::ANY, shapes.any(), 0),
        ];
        let mut best: Option<((u32, u32, u8), PolicyValue)> = None;
        for (identity, mask, kind) in kinds {
            if kind == 1 && identity == NumericIdentity::ANY {
                continue;
            }
            for shape in (0..ShapeMask::SHAPES).filter(|shape| mask.0 & (1 << shape) != 0) {
                let key = PolicyKey {
                    table,
                    identity: identity.0,
                    port: oxilium_abi::Be16::new(probe.port & ShapeMask::port_mask(shape)),
                    protocol: if shape == 0 { 0 } else { probe.protocol },
                    direction_shape: PolicyKey::pack(probe.direction, shape),
                };
                let Some(value) = self.0.policy.get(&key) else {
                    continue;
                };
                let rank = (value.precedence().0, shape, kind);
                if table != 0
                    && PolicyValue::seal(&key, value.word) == value.check
                    && best.is_none_or(|(first, _)| first < rank)
                {
                    best = Some((rank, *value));
                }
            }
        }
        match best.map(|(_, value)| value) {
            None => Verdict::NoMatch,
            Some(value) if value.precedence().is_deny() => Verdict::Denied,
            Some(value) if value.auth().kind() != 0 => Verdict::NeedsAuthentication,
            Some(value) if value.precedence().is_redirect() => Verdict::Redirected,
            Some(_) => Verdict::Allowed,
        }
    }

    /// The oldest stamp with which a recorded verdict is taken without another lookup.
    pub(crate) fn oldest_trusted(&self, endpoint: u16) -> Option<Epoch> {
        let (_, config) = self.interface(endpoint)?;
        let word = self.0.endpoint_word_in_use(endpoint).epoch();
        let ipcache = self.0.ipcache_word().epoch();
        Some(word.max(ipcache).max(Epoch::new(config.birth)))
    }
}
