//! What is read off one picture of the agent, and off the kernel's counters, when a scrape comes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use oxilium_abi::{COUNTER_EVENT_LOST, COUNTER_FORWARDED, Counter, Direction, DropReason};
use oxilium_kernel::count::{Action, WriteCounts};
use oxilium_kernel::port::{Evicted, Occupancy};
use oxilium_model::condition::Reason;
use oxilium_model::identity::NumericIdentity;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use crate::reconcile::View;

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// Writes families of samples. Their names end without `_total`: the format adds it.
pub(super) struct Pages<'a>(pub(super) DescriptorEncoder<'a>);

impl Pages<'_> {
    pub(super) fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub(super) fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, V, u64>(&value, None)?;
        }
        Ok(())
    }
}

/// What the kernel's side counted.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Packets and bytes by direction and reason ([`oxilium_abi::counter_index`]).
    pub counters: BTreeMap<(Direction, u8), Counter>,
    /// Writes of this process.
    pub writes: WriteCounts,
    /// What was evicted for want of room.
    pub evicted: Evicted,
    /// Tables of flows, as of the last time that ended ones were removed.
    pub flow_tables: BTreeMap<&'static str, Occupancy>,
    /// Of all maps, in bytes.
    pub map_memory: u64,
}

/// What one scrape tells of.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The agent.
    pub view: Arc<View>,
    /// The kernel.
    pub kernel: Kernel,
    /// Clients that follow events.
    pub monitor_readers: usize,
    /// How programs are attached, in a word.
    pub attach_mode: &'static str,
}

fn one(key: &'static str, value: impl fmt::Display) -> Labels {
    vec![(key, value.to_string())]
}

fn counted<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_insert(0) += 1;
    }
    counts
}

/// Cilium's word for a direction in these metrics.
fn direction(direction: Direction) -> String {
    match direction {
        Direction::Ingress => "INGRESS".to_owned(),
        Direction::Egress => "EGRESS".to_owned(),
    }
}

/// Cilium's word for who gives an identity its number.
fn identity_type(identity: NumericIdentity) -> &'static str {
    if identity.is_cidr() {
        "node_local"
    } else if identity.is_remote_node() {
        "remote_node"
    } else if identity.0 < NumericIdentity::FIRST_CLUSTER {
        "reserved"
    } else {
        "cluster_local"
    }
}

/// How full, 0 to 1 and beyond when more is wanted than there is room for.
#[expect(clippy::cast_precision_loss, reason = "no table has 2^52 entries")]
fn pressure(entries: usize, capacity: usize) -> f64 {
    entries as f64 / capacity.max(1) as f64
}

impl Picture {
    fn agent(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let view = &self.view;
        let version = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("arch", std::env::consts::ARCH.to_owned()),
            ("attach_mode", self.attach_mode.to_owned()),
        ];
        pages.gauge("cilium_version", "The agent's version", [(version, 1_u32)])?;
        pages.gauge(
            "oxilium_ready",
            "1 when what the sources say is enforced",
            [(vec![], u32::from(view.ready().is_ok()))],
        )?;
        let revisions = view.revisions;
        pages.gauge(
            "oxilium_revision",
            "How far the changes of the inputs have come",
            [
                (one("stage", "input"), revisions.input),
                (one("stage", "plan"), revisions.plan),
                (one("stage", "applied"), revisions.applied),
            ],
        )?;
        pages.gauge(
            "cilium_controllers_failing",
            "Things that fail and are tried again",
            [(vec![], view.failing.len() + view.published.failing.len())],
        )?;
        pages.gauge(
            "oxilium_source_up",
            "1 when what objects come from can be read",
            [(vec![], u32::from(view.source.problem.is_none()))],
        )?;
        pages.counter(
            "oxilium_drift_repaired_writes",
            "Writes that were needed although no input had changed",
            [(vec![], view.sweep.repaired)],
        )?;
        pages.counter(
            "oxilium_drift_hooks",
            "Hooks found other than they were left",
            [(vec![], view.sweep.hooks_drifted)],
        )?;
        pages.counter(
            "oxilium_drift_pins",
            "Pins that others had removed and that were set again",
            [(vec![], view.sweep.pins_restored)],
        )?;
        pages.gauge(
            "oxilium_monitor_readers",
            "Clients that follow events",
            [(vec![], self.monitor_readers)],
        )
    }

    fn endpoints(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let endpoints = || self.view.state.endpoints.values();
        pages.gauge(
            "cilium_endpoint",
            "Endpoints of this node",
            [(vec![], endpoints().count())],
        )?;
        let devices = endpoints().filter_map(|endpoint| endpoint.ifindex);
        pages.gauge(
            "cilium_endpoint_max_ifindex",
            "Highest index of an interface of an endpoint",
            [(vec![], devices.max().unwrap_or(0))],
        )?;
        let states = counted(endpoints().map(|endpoint| endpoint.state.name()));
        pages.gauge(
            "cilium_endpoint_state",
            "Endpoints in each state",
            states
                .into_iter()
                .map(|(state, count)| (one("endpoint_state", state), count)),
        )?;
        let enforcing = counted(endpoints().map(|endpoint| {
            let policy = &endpoint.policy;
            match (policy.ingress_enforced, policy.egress_enforced) {
                (true, true) => "both",
                (true, false) => "ingress",
                (false, true) => "egress",
                (false, false) => "none",
            }
        }));
        pages.gauge(
            "cilium_policy_endpoint_enforcement_status",
            "Endpoints by the directions in which policy is enforced on them",
            enforcing
                .into_iter()
                .map(|(status, count)| (one("enforcement", status), count)),
        )
    }

    fn policy(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let view = &self.view;
        pages.gauge(
            "cilium_policy",
            "Policies in force",
            [(vec![], view.world.policies.len())],
        )?;
        pages.gauge(
            "cilium_policy_max_revision",
            "Highest revision of the inputs that is enforced",
            [(vec![], view.revisions.applied)],
        )?;
        let not_enforced = |condition: &&oxilium_model::condition::Condition| {
            matches!(condition.reason, Reason::NotEnforced { .. })
        };
        let conditions = &view.state.conditions;
        let in_part = conditions.iter().filter(not_enforced).count();
        pages.gauge(
            "oxilium_objects_not_in_force",
            "Objects that are refused, have a bad condition, are not enforced in part, or are pods that run already and were not adopted",
            [
                (one("how", "refused"), view.source.refused.len()),
                (one("how", "in_part"), in_part),
                (one("how", "in_doubt"), view.in_doubt.len()),
                (one("how", "condition"), conditions.len() - in_part),
            ],
        )?;
        let identities = counted(
            view.state
                .identities
                .iter()
                .map(|(number, _)| identity_type(number)),
        );
        pages.gauge(
            "cilium_identity",
            "Identities that policy is resolved against",
            identities
                .into_iter()
                .map(|(kind, count)| (one("type", kind), count)),
        )
    }

    fn maps(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let state = &self.view.state;
        let capacities = &self.view.world.config.capacities;
        // Endpoints of equal content share one table.
        let tables: BTreeMap<_, usize> = state
            .endpoints
            .values()
            .map(|endpoint| &endpoint.policy.table)
            .map(|table| (Arc::as_ptr(table), table.0.len()))
            .collect();
        let services = self.view.world.services.values();
        let frontends = services.map(|service| service.addresses.len() * service.ports.len());
        let backends = state.services.values();
        let backends = backends.map(|frontend| frontend.backends.len());
        let wanted = [
            ("policy", tables.values().sum(), capacities.policy_entries),
            ("ipcache", state.ipcache.len(), capacities.ipcache),
            ("interfaces", state.interfaces.len(), capacities.interfaces),
            ("services", frontends.sum(), capacities.frontends),
            ("backends", backends.sum(), capacities.backends),
        ];
        let flows = self.kernel.flow_tables.iter().map(|(name, table)| {
            let name = name.strip_prefix("ox_").unwrap_or(*name);
            (name, table.entries, table.capacity)
        });
        let maps: Vec<_> = wanted.into_iter().chain(flows).collect();
        pages.gauge(
            "cilium_bpf_map_pressure",
            "Entries that a map is to have, or, of flows, has, as a part of its capacity",
            maps.iter().map(|(map, entries, capacity)| {
                (one("map_name", map), pressure(*entries, *capacity))
            }),
        )?;
        pages.gauge(
            "cilium_bpf_map_capacity",
            "Entries that a map can have",
            maps.iter()
                .map(|(map, _, capacity)| (one("map_group", map), *capacity)),
        )?;
        pages.gauge(
            "cilium_bpf_maps_virtual_memory_max_bytes",
            "Kernel memory of all maps",
            [(vec![], self.kernel.map_memory)],
        )
    }

    fn packets(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let counters = &self.kernel.counters;
        let forwarded = || {
            counters
                .iter()
                .filter(|((_, reason), _)| *reason == COUNTER_FORWARDED)
                .map(|((way, _), counter)| (one("direction", direction(*way)), counter))
        };
        let dropped = || {
            counters.iter().filter_map(|((way, reason), counter)| {
                let reason = DropReason::from_number(*reason)?.text().to_owned();
                let labels = vec![("reason", reason), ("direction", direction(*way))];
                Some((labels, counter))
            })
        };
        pages.counter(
            "cilium_forward_count",
            "Packets let through",
            forwarded().map(|(labels, counter)| (labels, counter.packets)),
        )?;
        pages.counter(
            "cilium_forward_bytes",
            "Bytes let through",
            forwarded().map(|(labels, counter)| (labels, counter.bytes)),
        )?;
        pages.counter(
            "cilium_drop_count",
            "Packets dropped",
            dropped().map(|(labels, counter)| (labels, counter.packets)),
        )?;
        pages.counter(
            "cilium_drop_bytes",
            "Bytes dropped",
            dropped().map(|(labels, counter)| (labels, counter.bytes)),
        )?;
        let lost: u64 = counters
            .iter()
            .filter(|((_, reason), _)| *reason == COUNTER_EVENT_LOST)
            .map(|(_, counter)| counter.packets)
            .sum();
        pages.counter(
            "oxilium_events_lost",
            "Events that the programs could not deliver",
            [(vec![], lost)],
        )?;
        pages.counter(
            "oxilium_conntrack_evicted",
            "Answered flows that were evicted for want of room",
            [(vec![], self.kernel.evicted.flows)],
        )?;
        let Evicted {
            choices,
            latest_choices,
            ..
        } = self.kernel.evicted;
        pages.counter(
            "oxilium_service_choices_evicted",
            "Choices of a service's backend that were evicted for want of room, of answered flows and of the latest",
            [
                (one("flows", "answered"), choices),
                (one("flows", "latest"), latest_choices),
            ],
        )
    }

    fn map_operations(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let writes = self.kernel.writes.iter();
        let of_maps =
            writes.filter(|((_, action), _)| matches!(action, Action::Update | Action::Delete));
        let samples = of_maps.flat_map(|((target, action), count)| {
            [("success", count.entries), ("fail", count.failed)].map(|(outcome, count)| {
                let labels = vec![
                    ("map_name", target.to_string()),
                    ("operation", action.to_string()),
                    ("outcome", outcome.to_owned()),
                ];
                (labels, count)
            })
        });
        pages.counter(
            "cilium_bpf_map_ops",
            "Entries of maps that were written or deleted, and system calls for that which failed",
            samples,
        )
    }

    fn writes(&self, pages: &mut Pages<'_>) -> fmt::Result {
        let writes = || {
            self.kernel.writes.iter().map(|((target, action), count)| {
                let labels = vec![
                    ("table", target.to_string()),
                    ("action", action.to_string()),
                ];
                (labels, count)
            })
        };
        pages.counter(
            "oxilium_kernel_writes",
            "System calls that change the kernel",
            writes().map(|(labels, count)| (labels, count.calls)),
        )?;
        pages.counter(
            "oxilium_kernel_writes_failed",
            "System calls that were to change the kernel and failed",
            writes().map(|(labels, count)| (labels, count.failed)),
        )?;
        pages.counter(
            "oxilium_kernel_entries_changed",
            "Entries that such system calls changed",
            writes().map(|(labels, count)| (labels, count.entries)),
        )
    }
}

impl Collector for Picture {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut pages = Pages(encoder);
        self.agent(&mut pages)?;
        self.endpoints(&mut pages)?;
        self.policy(&mut pages)?;
        self.maps(&mut pages)?;
        self.packets(&mut pages)?;
        self.map_operations(&mut pages)?;
        self.writes(&mut pages)
    }
}
