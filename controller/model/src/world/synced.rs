//! What is known to be complete.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

/// A source of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Policy objects of every kind.
    Policies,
    /// Pods of this node.
    Pods,
    /// Nodes and CiliumNodes.
    Nodes,
    /// Namespaces.
    Namespaces,
    /// CiliumEndpoints and CiliumIdentities.
    Endpoints,
    /// CiliumCIDRGroups.
    CidrGroups,
    /// Services and EndpointSlices.
    Services,
    /// Attachments, read back from disk, with their devices observed.
    Attachments,
    /// This node's links and addresses.
    Kernel,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Policies,
        Self::Pods,
        Self::Nodes,
        Self::Namespaces,
        Self::Endpoints,
        Self::CidrGroups,
        Self::Services,
        Self::Attachments,
        Self::Kernel,
    ];

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Pods => "pods",
            Self::Nodes => "nodes",
            Self::Namespaces => "namespaces",
            Self::Endpoints => "endpoints",
            Self::CidrGroups => "CIDR groups",
            Self::Services => "services",
            Self::Attachments => "attachments",
            Self::Kernel => "kernel",
        }
    }
}

/// The sources that have delivered their first full list. One that goes away afterwards freezes what
/// it fed: it stays in here, and so does what it told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced(BTreeSet<Source>);

impl Synced {
    /// `source` has delivered its first full list. To be called for nothing else: no timeout stands in for it.
    pub fn first_list_delivered(&mut self, source: Source) {
        self.0.insert(source);
    }

    /// It has delivered.
    pub fn has(&self, source: Source) -> bool {
        self.0.contains(&source)
    }

    /// The proof that nothing is missing, which whatever removes or changes something must be handed.
    ///
    /// # Errors
    /// [`Waiting`] names the sources that have not delivered.
    pub fn complete(&self) -> Result<Complete, Waiting> {
        let missing: Vec<Source> = Source::ALL.into_iter().filter(|s| !self.has(*s)).collect();
        if missing.is_empty() {
            return Ok(Complete(()));
        }
        Err(Waiting { missing })
    }
}

/// Every source has delivered its first full list. Made by [`Synced::complete`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete(());

/// Sources that have not told all they know: the last applied state stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Waiting {
    /// Which.
    pub missing: Vec<Source>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("waiting for the first full list of ")?;
        for (i, source) in self.missing.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}", source.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_needs_every_source() {
        for missing in Source::ALL {
            let mut synced = Synced::default();
            for source in Source::ALL.into_iter().filter(|source| *source != missing) {
                synced.first_list_delivered(source);
            }
            let waiting = synced.complete().unwrap_err();
            assert_eq!(waiting.missing, [missing]);
            assert!(waiting.to_string().ends_with(missing.name()));
            synced.first_list_delivered(missing);
            assert_eq!(synced.complete(), Ok(Complete(())));
        }
    }
}
