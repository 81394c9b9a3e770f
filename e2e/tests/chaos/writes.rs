//! Every kind of write that a plan can have is met: in which moment, and where.

use std::collections::BTreeSet;

use oxilium_e2e::{
    dump::has_links,
    trace::{Domain, Site},
};
use oxilium_model::plan::Write;

use crate::Moment;

/// Where a kind of write is met.
enum Met {
    /// In the lives of this moment, at such a site.
    In(Moment, fn(&Site) -> bool),
    /// As before, but where programs are attached by filters.
    WithLinks(Moment, fn(&Site) -> bool),
    /// Nowhere, and why.
    Nowhere(&'static str),
}

use Met::{In, Nowhere, WithLinks};
use Moment::{Change, Install, Repair};

macro_rules! kinds {
    ($($kind:ident: $met:expr,)+) => {
        const KINDS: &[(&str, Met)] = &[$((stringify!($kind), $met),)+];

        /// A kind that is not in the list does not compile.
        const _: fn(&Write) = |write| match write {
            $(Write::$kind { .. } => (),)+
        };
    };
}

kinds! {
    HighWater: In(Change, |site| sets(site, "ox_node_words HighWater")),
    PolicyInsert: In(Change, |site| calls(site, "MAP_UPDATE_ELEM NOEXIST", "ox_policy")),
    PolicyReplace: In(Change, |site| calls(site, "MAP_UPDATE_ELEM EXIST", "ox_policy")),
    PolicyDelete: In(Change, |site| deletes(site, "ox_policy")),
    ShapeWord: In(Change, |site| sets(site, "ox_pol_shapes")),
    IpcacheUpsert: In(Change, |site| sets(site, "ox_ipcache")),
    IpcacheDelete: In(Change, |site| deletes(site, "ox_ipcache")),
    InterfaceInsert: In(Change, |site| calls(site, "MAP_UPDATE_ELEM NOEXIST", "ox_interfaces")),
    InterfaceReplace: In(Repair, |site| calls(site, "MAP_UPDATE_ELEM EXIST", "ox_interfaces")),
    InterfaceDelete: In(Change, |site| deletes(site, "ox_interfaces")),
    EndpointWord: In(Change, |site| sets(site, "ox_ep_words")),
    IpcacheWord: In(Change, |site| sets(site, "ox_node_words Ipcache")),
    Publish: In(Change, |site| sets(site, "ox_node_words Published")),
    Service: In(Change, |site| sets(site, "ox_services")),
    ServiceDelete: In(Change, |site| deletes(site, "ox_services")),
    Backend: In(Change, |site| sets(site, "ox_backends")),
    BackendDelete: In(Repair, |site| deletes(site, "ox_backends")),
    ReverseNat: In(Change, |site| sets(site, "ox_reverse_nat")),
    ReverseNatDelete: In(Repair, |site| deletes(site, "ox_reverse_nat")),
    ServicesInUse: In(Install, |site| sets(site, "ox_node_words Services")),
    Attach: In(Change, |site| site.domain == Domain::Netlink && site.object == "filter" || is_link(site)),
    Replace: WithLinks(Change, is_link),
    Detach: Nowhere("no plan has it: programs go with their device, or when the agent is uninstalled"),
    PurgeConntrack: In(Change, |site| {
        site.call.starts_with("MAP_DELETE") && site.object.starts_with("ox_ct")
    }),
    Barrier: Nowhere("it waits and writes nothing: who dies in it dies after the write before it"),
}

fn calls(site: &Site, call: &str, object: &str) -> bool {
    site.domain == Domain::Bpf && site.call == call && site.object == object
}

fn sets(site: &Site, object: &str) -> bool {
    calls(site, "MAP_UPDATE_ELEM", object)
}

fn deletes(site: &Site, object: &str) -> bool {
    calls(site, "MAP_DELETE_ELEM", object)
}

fn is_link(site: &Site) -> bool {
    site.domain == Domain::Bpf && site.call == "LINK_CREATE"
}

/// Where the kinds are met that are to be met in this moment.
pub(crate) fn sites(moment: Moment) -> impl Iterator<Item = (&'static str, fn(&Site) -> bool)> {
    KINDS.iter().filter_map(move |(kind, met)| match met {
        WithLinks(..) if !has_links() => None,
        In(of, is_one) | WithLinks(of, is_one) if *of == moment => Some((*kind, *is_one)),
        In(..) | WithLinks(..) | Nowhere(_) => None,
    })
}

/// The kinds that are to be met in this moment, and have none of these sites.
pub(crate) fn not_met(moment: Moment, sites: &BTreeSet<&Site>) -> Vec<&'static str> {
    let is_missing = |met: &Met| match met {
        Nowhere(reason) => {
            assert!(!reason.is_empty(), "a reason");
            false
        }
        WithLinks(..) if !has_links() => false,
        In(of, is_one) | WithLinks(of, is_one) => {
            *of == moment && !sites.iter().any(|site| is_one(site))
        }
    };
    let missing = KINDS.iter().filter(|(_, met)| is_missing(met));
    missing.map(|(kind, _)| *kind).collect()
}
