//! What somebody else's program may do to each of the agent's tables: entries removed, changed and added.
//!
//! No blow hits what packets between the subject and its friend, or to other services than the one named, are judged and
//! translated by. All else may become wrong, up to letting in whom policy denies.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use oxilium_abi::{
    Be16, Direction, EndpointWord, Epoch, Family, InterfaceConfig, InterfaceFlags, IpcacheKey,
    IpcacheValue, IpcacheWord, LbAddress, NodeWord, POLICY_CLASS_DENY, PolicyKey, PolicyValue,
    Precedence, ServiceKey, ServiceValue, ServiceWord, ShapeMask, ShapeWord, endpoint_word_index,
    map, shape_word_index,
};

use crate::{
    pod::Pod,
    tables::{Change, Tables},
};

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It goes. No entry of an array can.
    Removed,
    /// It gets another value.
    Changed,
    /// It is there, and should not be. No entry of an array is that.
    Added,
}

/// One entry of one table.
#[derive(Clone, Debug)]
pub struct Blow {
    /// The table's map.
    pub table: &'static str,
    /// What becomes of its entry.
    pub deed: Deed,
    /// The entry.
    pub change: Change,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an entry of {} {:?}", self.table, self.deed)
    }
}

/// Whom it hits.
#[derive(Clone, Copy, Debug)]
pub struct Victims<'a> {
    /// Its ingress policy allows its friend everything, and somebody two ports.
    pub subject: &'a Pod,
    /// The subject's friend.
    pub friend: &'a Pod,
    /// A pod that the subject's policy denies.
    pub stranger: &'a Pod,
    /// Any other pod.
    pub other: &'a Pod,
    /// The frontends, one of each family, of a service by UDP that has a backend.
    pub service: [SocketAddr; 2],
}

/// A backend, a frontend, an endpoint and an interface that nobody has.
const NOBODY: u16 = 60_000;

struct Read<'a> {
    tables: &'a Tables,
    victims: &'a Victims<'a>,
    interfaces: Vec<(u32, InterfaceConfig)>,
    ipcache: Vec<(IpcacheKey, IpcacheValue)>,
    blows: Vec<Blow>,
}

/// A blow of each kind for each table.
///
/// # Errors
/// If the tables cannot be read, or do not hold what [`Victims`] says.
pub fn blows(tables: &Tables, victims: &Victims<'_>) -> Result<Vec<Blow>> {
    let mut read = Read {
        tables,
        victims,
        interfaces: tables.dump(map::INTERFACES)?,
        ipcache: tables.dump(map::IPCACHE)?,
        blows: Vec::new(),
    };
    read.policy()?;
    read.ipcache()?;
    read.interfaces()?;
    read.words()?;
    read.services()?;
    Ok(read.blows)
}

impl Read<'_> {
    fn put<K, V>(&mut self, table: &'static str, deed: Deed, key: &K, value: &V)
    where
        K: zerocopy::IntoBytes + zerocopy::Immutable,
        V: zerocopy::IntoBytes + zerocopy::Immutable,
    {
        let change = Change::set(table, key, value);
        self.blows.push(Blow {
            table,
            deed,
            change,
        });
    }

    fn remove<K>(&mut self, table: &'static str, key: &K)
    where
        K: zerocopy::IntoBytes + zerocopy::Immutable,
    {
        self.blows.push(Blow {
            table,
            deed: Deed::Removed,
            change: Change::delete(table, key),
        });
    }

    fn interface(&self, pod: &Pod) -> Result<(u32, InterfaceConfig)> {
        let of_pod = |(_, config): &&(u32, InterfaceConfig)| config.ipv4[0] == pod.ipv4.octets();
        let found = self.interfaces.iter().find(of_pod).copied();
        found.with_context(|| format!("no interface of {}", pod.name()))
    }

    fn identity(&self, pod: &Pod) -> Result<u32> {
        let key = IpcacheKey::v4(pod.ipv4.octets(), 32);
        let found = self.ipcache.iter().find(|(there, _)| *there == key);
        let (_, value) = found.with_context(|| format!("no identity of {}", pod.name()))?;
        Ok(value.identity(0))
    }

    /// The place of the word that programs read.
    fn word_index(&self, endpoint: u16) -> Result<u32> {
        let word = self
            .tables
            .lookup(map::NODE_WORDS, NodeWord::Ipcache as u32)?;
        Ok(endpoint_word_index(endpoint, IpcacheWord(word).bank()))
    }

    fn word(&self, endpoint: u16) -> Result<EndpointWord> {
        let index = self.word_index(endpoint)?;
        self.tables
            .lookup(map::ENDPOINT_WORDS, index)
            .map(EndpointWord)
    }

    /// A port is not allowed any more, another is denied, the stranger is let in, and more is looked for than there is.
    fn policy(&mut self) -> Result<()> {
        let (_, subject) = self.interface(self.victims.subject)?;
        let table = self.word(subject.endpoint)?.table();
        let entries: Vec<(PolicyKey, PolicyValue)> = self.tables.dump(map::POLICY)?;
        let mut allowed: Vec<_> = entries
            .into_iter()
            .filter(|(key, value)| {
                key.table == table
                    && key.direction() == Direction::Ingress
                    && !value.precedence().is_deny()
            })
            .collect();
        // Tables tell their entries in no order.
        allowed.sort_by_key(|(key, _)| *key);
        let mut ports = allowed.iter().filter(|(key, _)| key.port.get() != 0);
        let (removed, _) = ports.next().context("a port that is allowed")?;
        let (denied, value) = ports.next().context("another one")?;
        self.remove(map::POLICY, removed);
        let deny = Precedence(value.precedence().0 | u32::from(POLICY_CLASS_DENY));
        let value = PolicyValue::new(denied, deny, 0, value.auth());
        self.put(map::POLICY, Deed::Changed, denied, &value);
        let friend = self.identity(self.victims.friend)?;
        let of_friend = |(key, _): &&(PolicyKey, PolicyValue)| key.identity == friend;
        let (key, value) = allowed.iter().find(of_friend).context("the friend")?;
        let stranger = PolicyKey {
            identity: self.identity(self.victims.stranger)?,
            ..*key
        };
        let admitted = PolicyValue::new(&stranger, value.precedence(), 0, value.auth());
        self.put(map::POLICY, Deed::Added, &stranger, &admitted);
        let index = shape_word_index(table, Direction::Ingress);
        let shapes = ShapeWord(self.tables.lookup(map::POLICY_SHAPES, index)?);
        let more = ShapeWord::new(
            ShapeMask(shapes.specific().0 | ShapeMask::shape(Some(3))),
            shapes.aggregate(),
            shapes.any(),
        );
        self.put(map::POLICY_SHAPES, Deed::Changed, &index, &more.0);
        Ok(())
    }

    /// The other pod is nobody, the stranger and an address of the world are the friend.
    fn ipcache(&mut self) -> Result<()> {
        let victims = self.victims;
        let friend = IpcacheValue::level(self.identity(victims.friend)?);
        let of = |pod: &Pod| IpcacheKey::v4(pod.ipv4.octets(), 32);
        self.remove(map::IPCACHE, &of(victims.other));
        self.put(map::IPCACHE, Deed::Changed, &of(victims.stranger), &friend);
        let world = IpcacheKey::v4([203, 0, 113, 200], 32);
        self.put(map::IPCACHE, Deed::Added, &world, &friend);
        Ok(())
    }

    /// The stranger's is gone, the other pod may send from any address, and there is one of nobody.
    fn interfaces(&mut self) -> Result<()> {
        let (stranger, _) = self.interface(self.victims.stranger)?;
        self.remove(map::INTERFACES, &stranger);
        let (ifindex, other) = self.interface(self.victims.other)?;
        let spoofing = InterfaceConfig {
            flags: other.flags | InterfaceFlags::ALLOW_SPOOFING,
            ..other
        };
        self.put(map::INTERFACES, Deed::Changed, &ifindex, &spoofing);
        let nobody = InterfaceConfig {
            ifindex: u32::MAX,
            endpoint: NOBODY,
            ..other
        };
        self.put(map::INTERFACES, Deed::Added, &u32::MAX, &nobody);
        Ok(())
    }

    /// The stranger is judged by a table that there is not; an epoch is taken that no plan took.
    fn words(&mut self) -> Result<()> {
        let (_, stranger) = self.interface(self.victims.stranger)?;
        let there = self.word(stranger.endpoint)?;
        let other = EndpointWord::new(there.table() + 1000, there.epoch());
        let index = self.word_index(stranger.endpoint)?;
        self.put(map::ENDPOINT_WORDS, Deed::Changed, &index, &other.0);
        let index = NodeWord::HighWater as u32;
        let taken = Epoch::new(self.tables.lookup(map::NODE_WORDS, index)?);
        let next = taken.next().context("an epoch is left")?.get();
        self.put(map::NODE_WORDS, Deed::Changed, &index, &next);
        Ok(())
    }

    /// Of the service's frontends the first is none any more, and its backend listens elsewhere; the second has another
    /// address and a slot of nobody, and its backend is gone.
    fn services(&mut self) -> Result<()> {
        let entries: Vec<(ServiceKey, ServiceValue)> = self.tables.dump(map::SERVICES)?;
        let addresses = |table| -> Result<Vec<(u32, LbAddress)>> { self.tables.dump(table) };
        let (backends, frontends) = (addresses(map::BACKENDS)?, addresses(map::REVERSE_NAT)?);
        let word = |key: &ServiceKey| {
            let found = entries.iter().find(|(there, _)| there == key);
            found
                .and_then(|(key, value)| value.of(key))
                .with_context(|| format!("no {key:?}"))
        };
        let address = |entries: &[(u32, LbAddress)], wanted: u32| {
            let found = entries.iter().find(|(id, _)| *id == wanted);
            found
                .map(|(_, value)| *value)
                .with_context(|| format!("no id {wanted}"))
        };
        let masters = self.victims.service.map(master);
        let mut ids = [[0; 2]; 2];
        for (master, ids) in masters.iter().zip(&mut ids) {
            let frontend = u32::from(ServiceWord(word(master)?).id());
            *ids = [frontend, u32::try_from(word(&master.slot(1))?)?];
        }
        let [[frontend4, backend4], [frontend6, backend6]] = ids;
        let elsewhere = |id: u32, mut value: LbAddress| {
            value.port = Be16::new(value.port.get() ^ 1);
            value.sealed(id)
        };
        let backend = elsewhere(backend4, address(&backends, backend4)?);
        let frontend = elsewhere(frontend6, address(&frontends, frontend6)?);

        self.remove(map::SERVICES, &masters[0]);
        let slot = masters[1].slot(1);
        let nobodys = ServiceValue::new(&slot, u64::from(NOBODY));
        self.put(map::SERVICES, Deed::Changed, &slot, &nobodys);
        let added = ServiceKey {
            port: Be16::new(NOBODY),
            ..masters[0]
        };
        let empty = ServiceValue::new(&added, ServiceWord::new(NOBODY, 0, 0).0);
        self.put(map::SERVICES, Deed::Added, &added, &empty);
        self.remove(map::BACKENDS, &backend6);
        self.put(map::BACKENDS, Deed::Changed, &backend4, &backend);
        let damaged = LbAddress::default();
        self.put(map::BACKENDS, Deed::Added, &u32::from(NOBODY), &damaged);
        self.remove(map::REVERSE_NAT, &frontend4);
        self.put(map::REVERSE_NAT, Deed::Changed, &frontend6, &frontend);
        self.put(map::REVERSE_NAT, Deed::Added, &u32::from(NOBODY), &damaged);
        Ok(())
    }
}

/// The key of a frontend by UDP.
fn master(frontend: SocketAddr) -> ServiceKey {
    const UDP: u8 = 17;
    let (family, address) = match frontend.ip() {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (Family::V4, bytes)
        }
        IpAddr::V6(v6) => (Family::V6, v6.octets()),
    };
    ServiceKey::master(family, address, Be16::new(frontend.port()), UDP)
}
