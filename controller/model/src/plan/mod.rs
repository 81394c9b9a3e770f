//! The plan: the writes that lead from what the kernel holds to what it should hold, in an order
//! that is safe between any two.

mod addresses;
mod assign;
mod build;
mod content;
mod cover;
mod fit;
mod interfaces;
mod rank;
mod room;
mod services;
mod show;
mod write;

use std::collections::BTreeMap;

use ipnet::IpNet;
use thiserror::Error;

pub use addresses::{ipcache_key, ipcache_prefix, ipcache_value};
pub use build::plan;
pub use interfaces::interface_config;
pub use services::{
    RESTING_BACKENDS, RESTING_FRONTENDS, lb_address, service_frontend, service_key,
};
pub use write::{Operation, Table, Write};

/// Why a write is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The write.
    pub write: Write,
    /// What it is for.
    pub reason: Reason,
}

impl Step {
    const fn new(write: Write, reason: Reason) -> Self {
        Self { write, reason }
    }
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
    /// As before, in an order that may drop for a moment what is allowed before and after: there is no
    /// room to build the table beside the one in use.
    Narrowing {
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
    /// A service is new, or has other backends.
    ServiceChange,
    /// A service or a backend is gone.
    GoneService,
    /// Bookkeeping of epochs and banks.
    Epoch,
    /// A program is missing or not the loaded one.
    Program,
    /// A staged program goes to where it is to be for good. These writes are a plan's last; they change nothing of
    /// what is enforced, and may be made any time later.
    Settle,
    /// What is there contradicts itself or is nobody's.
    Repair,
}

/// Writes in their order. An empty plan means that the node has converged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
    left_out: Vec<IpNet>,
    covers: Vec<IpNet>,
    goes_on: bool,
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

    /// Addresses of pods on other nodes for which the ipcache has no room. Prefixes around them say so: such a pod may what
    /// everybody may, and no more.
    pub fn left_out(&self) -> &[IpNet] {
        &self.left_out
    }

    /// The prefixes around what is left out.
    pub fn covers(&self) -> &[IpNet] {
        &self.covers
    }

    /// Once it is made, another plan is to follow at once, from what is there then.
    pub fn goes_on(&self) -> bool {
        self.goes_on || !self.left_out.is_empty() && self.frees_room()
    }

    fn frees_room(&self) -> bool {
        self.writes()
            .any(|write| matches!(write, Write::IpcacheDelete { .. }))
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

/// Why there is no plan. What was applied last stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The last epoch was taken.
    #[error(
        "all 2^40 epochs are taken; drain the node, remove the pinned maps and restart the agent"
    )]
    EpochsExhausted,
    /// No table id is free.
    #[error(
        "all {available} policy table ids are taken; raise the number of policy tables, or lower the number of different policies on the node"
    )]
    TablesExhausted {
        /// How many there are.
        available: u32,
    },
    /// A table would hold more than it can, on the way or at its end.
    #[error(
        "the table `{table}` would need {needed} entries and has room for {available}; raise its size"
    )]
    NoRoom {
        /// Which.
        table: Table,
        /// Entries at the fullest moment.
        needed: usize,
        /// Entries that it can hold.
        available: usize,
    },
}
