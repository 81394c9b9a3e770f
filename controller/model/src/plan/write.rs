//! One change of the kernel's state.

use std::fmt;

use oxilium_abi::{
    Direction, EndpointWord, Epoch, InterfaceConfig, IpcacheKey, IpcacheValue, IpcacheWord,
    LbAddress, PolicyKey, PolicyValue, ServiceKey, ServiceValue, ShapeWord,
};

use crate::node_state::{AttachPoint, ProgramTag};

/// One change. Whoever applies a plan performs its writes in their order and stops at the first that
/// fails; what is there then is read again, and a new plan is made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Node word `HighWater`: this epoch is taken from now on.
    HighWater(Epoch),
    /// A policy entry that was not there.
    PolicyInsert {
        /// The key, with its table.
        key: PolicyKey,
        /// The sealed value.
        value: PolicyValue,
    },
    /// Another value for a policy entry.
    PolicyReplace {
        /// The key, with its table.
        key: PolicyKey,
        /// The sealed value.
        value: PolicyValue,
    },
    /// A policy entry goes. Not there any more counts as done.
    PolicyDelete {
        /// The key, with its table.
        key: PolicyKey,
    },
    /// The shapes that programs look for in a table and direction; a zero word ends the table's use.
    ShapeWord {
        /// The table.
        table: u32,
        /// The direction.
        direction: Direction,
        /// Its shapes.
        word: ShapeWord,
    },
    /// A prefix, new or with another value.
    IpcacheUpsert {
        /// The prefix.
        key: IpcacheKey,
        /// Its value, both banks.
        value: IpcacheValue,
    },
    /// A prefix goes. Not there any more counts as done.
    IpcacheDelete {
        /// The prefix.
        key: IpcacheKey,
    },
    /// An interface's configuration, where there is none.
    InterfaceInsert {
        /// The map's key.
        ifindex: u32,
        /// The value.
        config: InterfaceConfig,
    },
    /// Another configuration for an interface that lives. Always followed by a [`Write::Barrier`] before any
    /// other interface is written, so that no element is reused under a reader.
    InterfaceReplace {
        /// The map's key.
        ifindex: u32,
        /// The value.
        config: InterfaceConfig,
    },
    /// An interface's configuration goes. Not there any more counts as done.
    InterfaceDelete {
        /// The map's key.
        ifindex: u32,
    },
    /// An endpoint's word in one bank.
    EndpointWord {
        /// The endpoint.
        endpoint: u16,
        /// Bank 0 or 1.
        bank: u32,
        /// Table and epoch.
        word: EndpointWord,
    },
    /// The ipcache word: the bank in use, and when an address last changed its identity.
    IpcacheWord(IpcacheWord),
    /// Node word `Published` (G): all of this epoch is written.
    Publish(Epoch),
    /// A frontend's master or slot, new or with another value.
    Service {
        /// The frontend and its slot.
        key: ServiceKey,
        /// The sealed value.
        value: ServiceValue,
    },
    /// A frontend's master or slot goes. Not there any more counts as done.
    ServiceDelete {
        /// The frontend and its slot.
        key: ServiceKey,
    },
    /// A backend, new or in another state.
    Backend {
        /// Its id.
        id: u32,
        /// The sealed value.
        value: LbAddress,
    },
    /// A backend goes. Not there any more counts as done.
    BackendDelete {
        /// Its id.
        id: u32,
    },
    /// The address of a frontend, new or in another state.
    ReverseNat {
        /// Its id.
        id: u32,
        /// The sealed value.
        value: LbAddress,
    },
    /// The address of a frontend goes. Not there any more counts as done.
    ReverseNatDelete {
        /// Its id.
        id: u32,
    },
    /// Node word `Services`: programs look for frontends, or need not.
    ServicesInUse(bool),
    /// Our program on a hook where it is not.
    Attach {
        /// The hook.
        point: AttachPoint,
        /// Whose interface it is: pins go by endpoint id.
        endpoint: u16,
        /// The program.
        program: ProgramTag,
        /// Where it takes microseconds, for the time being. (A tcx link takes an RCU grace period, 10 to 20 ms, during
        /// which the kernel lets no other be made.)
        staged: bool,
    },
    /// Our program where it is to be for good, on a hook where an older one of ours is, or where ours is staged or not
    /// in order. At no moment is the hook without; and where all on it are ours, no packet is judged twice.
    Replace {
        /// The hook.
        point: AttachPoint,
        /// Whose interface it is.
        endpoint: u16,
        /// The program.
        program: ProgramTag,
    },
    /// Our program goes from a hook. Not there any more counts as done. No plan of the reconciler has it, for it
    /// would leave a device that lives unenforced: programs go with their device, or by an uninstallation.
    Detach {
        /// The hook.
        point: AttachPoint,
    },
    /// All conntrack entries and fragments of an endpoint id go, before the id can get another owner.
    PurgeConntrack {
        /// The endpoint.
        endpoint: u16,
    },
    /// Waits until every program that runs now has ended.
    Barrier,
}

/// What a write changes: the rows of a plan's summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Policy entries.
    Policy,
    /// Shape words.
    Shapes,
    /// Prefixes.
    Ipcache,
    /// Interface configurations.
    Interfaces,
    /// Masters and slots of services.
    Services,
    /// Backends.
    Backends,
    /// Addresses of frontends.
    ReverseNat,
    /// Endpoint words.
    EndpointWords,
    /// Node words.
    NodeWords,
    /// Programs on hooks.
    Attachments,
    /// Conntrack and fragments.
    Conntrack,
}

impl Table {
    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Shapes => "policy shapes",
            Self::Ipcache => "ipcache",
            Self::Interfaces => "interfaces",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::ReverseNat => "reverse NAT",
            Self::EndpointWords => "endpoint words",
            Self::NodeWords => "node words",
            Self::Attachments => "attachments",
            Self::Conntrack => "conntrack",
        }
    }
}

/// What a write does to its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Something new.
    Insert,
    /// Another value.
    Update,
    /// Something goes.
    Delete,
}

impl Write {
    /// The table that it changes, and how; none for a barrier. What may be new or not counts as an update.
    pub const fn target(&self) -> Option<(Table, Operation)> {
        Some(match self {
            Self::PolicyInsert { .. } => (Table::Policy, Operation::Insert),
            Self::PolicyReplace { .. } => (Table::Policy, Operation::Update),
            Self::PolicyDelete { .. } => (Table::Policy, Operation::Delete),
            Self::ShapeWord { .. } => (Table::Shapes, Operation::Update),
            Self::IpcacheUpsert { .. } => (Table::Ipcache, Operation::Update),
            Self::IpcacheDelete { .. } => (Table::Ipcache, Operation::Delete),
            Self::InterfaceInsert { .. } => (Table::Interfaces, Operation::Insert),
            Self::InterfaceReplace { .. } => (Table::Interfaces, Operation::Update),
            Self::InterfaceDelete { .. } => (Table::Interfaces, Operation::Delete),
            Self::EndpointWord { .. } => (Table::EndpointWords, Operation::Update),
            Self::HighWater(_)
            | Self::IpcacheWord(_)
            | Self::Publish(_)
            | Self::ServicesInUse(_) => (Table::NodeWords, Operation::Update),
            Self::Service { .. } => (Table::Services, Operation::Update),
            Self::ServiceDelete { .. } => (Table::Services, Operation::Delete),
            Self::Backend { .. } => (Table::Backends, Operation::Update),
            Self::BackendDelete { .. } => (Table::Backends, Operation::Delete),
            Self::ReverseNat { .. } => (Table::ReverseNat, Operation::Update),
            Self::ReverseNatDelete { .. } => (Table::ReverseNat, Operation::Delete),
            Self::Attach { .. } => (Table::Attachments, Operation::Insert),
            Self::Replace { .. } => (Table::Attachments, Operation::Update),
            Self::Detach { .. } => (Table::Attachments, Operation::Delete),
            Self::PurgeConntrack { .. } => (Table::Conntrack, Operation::Delete),
            Self::Barrier => return None,
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
