//! The plan: the writes that lead from what the kernel holds to what it should hold, in an order
//! that is safe between any two.

mod write;

use std::collections::BTreeMap;
use std::fmt;

pub use write::{Operation, Table, Write};

/// Why a write is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The write.
    pub write: Write,
    /// What it is for.
    pub reason: Reason,
}

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An endpoint that is new.
    NewEndpoint(u16),
    /// An endpoint that is gone.
    GoneEndpoint(u16),
    /// A policy table gets other content.
    PolicyChange {
        /// The table.
        table: u32,
    },
    /// A policy table is built beside the one in use.
    Staging {
        /// The table.
        table: u32,
    },
    /// A policy table that nobody uses.
    Unused {
        /// The table.
        table: u32,
    },
    /// An address changes its identity.
    AddressChange,
    /// Bookkeeping of epochs and banks.
    Epoch,
    /// A program is missing or not the loaded one.
    Program,
    /// What is there contradicts itself or is nobody's.
    Repair,
}

/// Writes in their order. An empty plan means that the node has converged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    /// The writes with their reasons, in the order in which they must be made.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The writes.
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.steps.iter().map(|step| &step.write)
    }

    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many writes there are, barriers not counted, by table and operation.
    pub fn counts(&self) -> BTreeMap<(Table, Operation), usize> {
        let mut counts = BTreeMap::new();
        for target in self.writes().filter_map(Write::target) {
            *counts.entry(target).or_default() += 1;
        }
        counts
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewEndpoint(id) => write!(f, "endpoint {id} is new"),
            Self::GoneEndpoint(id) => write!(f, "endpoint {id} is gone"),
            Self::PolicyChange { table } => write!(f, "policy of table {table} changes"),
            Self::Staging { table } => write!(f, "table {table} is built beside the one in use"),
            Self::Unused { table } => write!(f, "table {table} is not used any more"),
            Self::AddressChange => f.write_str("addresses change their identity"),
            Self::Epoch => f.write_str("epoch"),
            Self::Program => f.write_str("program"),
            Self::Repair => f.write_str("repair"),
        }
    }
}
