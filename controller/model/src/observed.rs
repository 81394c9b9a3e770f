//! What the kernel holds, exactly as read.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use oxilium_abi::{
    Direction, EndpointWord, Epoch, InterfaceConfig, IpcacheKey, IpcacheValue, IpcacheWord,
    LbAddress, NODE_WORDS, NodeWord, PolicyKey, PolicyValue, ServiceKey, ServiceValue, ShapeWord,
};

use crate::node_state::{AttachPoint, Frontends, Ipcache, NodeState, ProgramTag};
use crate::plan::Table;

/// The content of every table that the agent writes. What the programs own (conntrack, fragments,
/// counters) is not in here: it is never diffed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Entries of the policy map. [`PolicyKey`] sorts by table first.
    pub policy: BTreeMap<PolicyKey, PolicyValue>,
    /// Shape words that are not zero, by table and direction.
    pub shapes: BTreeMap<(u32, Direction), ShapeWord>,
    /// Prefixes.
    pub ipcache: BTreeMap<IpcacheKey, IpcacheValue>,
    /// Interfaces by ifindex, the map's key (which a damaged value may contradict).
    pub interfaces: BTreeMap<u32, InterfaceConfig>,
    /// Endpoint words of both banks; endpoints whose words are both zero may be left out.
    pub endpoint_words: BTreeMap<u16, [EndpointWord; 2]>,
    /// The node words that plans write, [`Observed::NODE_WORDS`]; the others are zero here.
    pub node_words: [u64; NODE_WORDS as usize],
    /// Masters and slots of services.
    pub services: BTreeMap<ServiceKey, ServiceValue>,
    /// Backends by id.
    pub backends: BTreeMap<u32, LbAddress>,
    /// Addresses of frontends by id.
    pub reverse_nat: BTreeMap<u32, LbAddress>,
    /// Our programs on hooks of interfaces that exist. Programs of others are not in here.
    pub attachments: BTreeMap<AttachPoint, AttachedProgram>,
    /// See [`Settled`].
    pub settled_services: Settled<Frontends>,
    /// See [`Settled`].
    pub settled_ipcache: Settled<Ipcache>,
}

/// What tables were last brought to, where nothing was written to them since: of that only what is wanted otherwise need
/// be compared. It is no part of what was read: two pictures that differ in nothing else are equal.
#[derive(Clone, Debug)]
pub struct Settled<T>(Option<T>);

impl<T> Settled<T> {
    /// They hold this and no more.
    pub const fn on(what: T) -> Self {
        Self(Some(what))
    }

    /// What they are known to hold, and no more.
    pub const fn what(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl<T> Default for Settled<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> PartialEq for Settled<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Settled<T> {}

/// One of our programs on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Which program.
    pub tag: ProgramTag,
    /// How it is there.
    pub place: Place,
}

/// How a program of ours is on its hook. Wherever it is, it judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the way in which it is to be there for good: once, before all others, by a link or filter that is ours,
    /// pinned where it belongs.
    Settled,
    /// As [`crate::plan::Write::Attach`] puts it there when many are to be attached at once: once, by a filter, and
    /// no link is on the hook. As good, but easier for others to take away.
    Staged,
    /// Otherwise. It is put in order by [`crate::plan::Write::Replace`].
    Misplaced,
}

impl Observed {
    /// Node words that a plan may write. What else there is comes and goes with readers of events, or is made once.
    pub const NODE_WORDS: [NodeWord; 4] = [
        NodeWord::Published,
        NodeWord::Ipcache,
        NodeWord::HighWater,
        NodeWord::Services,
    ];

    /// Every table write of a plan for this state was made: what need not be compared the next time. `left_out` are
    /// addresses that the ipcache lacks.
    pub fn settle(&mut self, state: &NodeState, left_out: &[IpNet]) {
        self.settled_services = Settled::on(state.services.clone());
        self.settled_ipcache = if left_out.is_empty() {
            Settled::on(state.ipcache.clone())
        } else {
            Settled::default()
        };
    }

    /// The tables in which `other` holds something else.
    pub fn differing(&self, other: &Self) -> BTreeSet<Table> {
        let rows = [
            (Table::Policy, self.policy != other.policy),
            (Table::Shapes, self.shapes != other.shapes),
            (Table::Ipcache, self.ipcache != other.ipcache),
            (Table::Interfaces, self.interfaces != other.interfaces),
            (
                Table::EndpointWords,
                self.endpoint_words != other.endpoint_words,
            ),
            (Table::NodeWords, self.node_words != other.node_words),
            (Table::Services, self.services != other.services),
            (Table::Backends, self.backends != other.backends),
            (Table::ReverseNat, self.reverse_nat != other.reverse_nat),
            (Table::Attachments, self.attachments != other.attachments),
        ];
        rows.into_iter()
            .filter_map(|(table, differs)| differs.then_some(table))
            .collect()
    }

    /// G: the last plan that was written whole.
    pub fn published(&self) -> Epoch {
        Epoch::new(self.node_words[NodeWord::Published as usize])
    }

    /// The highest epoch ever taken.
    pub fn high_water(&self) -> Epoch {
        Epoch::new(self.node_words[NodeWord::HighWater as usize])
    }

    /// The ipcache's epoch and the bank in use.
    pub fn ipcache_word(&self) -> IpcacheWord {
        IpcacheWord(self.node_words[NodeWord::Ipcache as usize])
    }

    /// Both words of an endpoint.
    pub fn endpoint_word(&self, endpoint: u16) -> [EndpointWord; 2] {
        self.endpoint_words
            .get(&endpoint)
            .copied()
            .unwrap_or_default()
    }

    /// The word of an endpoint that programs read now.
    pub fn endpoint_word_in_use(&self, endpoint: u16) -> EndpointWord {
        self.endpoint_word(endpoint)[self.ipcache_word().bank() as usize]
    }

    /// Entries of one policy table.
    pub fn table(&self, table: u32) -> impl Iterator<Item = (&PolicyKey, &PolicyValue)> {
        let first = PolicyKey {
            table,
            ..PolicyKey::default()
        };
        self.policy
            .range(first..)
            .take_while(move |(key, _)| key.table == table)
    }
}
