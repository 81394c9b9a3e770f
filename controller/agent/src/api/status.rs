//! `status`: one report for the command, probes and metrics.

use std::collections::BTreeMap;

use oxilium_abi::COUNTER_EVENT_LOST;
use oxilium_api::{
    ApiError, ComponentState, ComponentStatus, ErrorCode, FailingObject, KernelWrites, MapStatus,
    ReconcileStatus, SourceStatus, StatusReport,
};
use oxilium_kernel::Node;
use oxilium_kernel::port::Evicted;
use oxilium_model::condition::Reason;

use super::netfilter::half_seen;
use super::server::{Service, errand};
use crate::publish::FIELDS_PRUNED;
use crate::reconcile::View;

/// What only the kernel knows.
struct KernelFigures {
    maps: Vec<MapStatus>,
    writes: KernelWrites,
    events_lost: u64,
    /// See [`half_seen`].
    half_seen: Option<String>,
    evicted: Evicted,
}

pub(super) async fn report<N: Node + 'static>(
    service: &Service<N>,
) -> Result<StatusReport, ApiError> {
    let figures = errand(service, figures).await?;
    let view = std::sync::Arc::clone(&service.view.borrow());
    let (not_enforced, refused) = conditions(&view);
    let mut endpoints: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in view.state.endpoints.values() {
        *endpoints
            .entry(endpoint.state.name().to_owned())
            .or_default() += 1;
    }
    Ok(StatusReport {
        cilium: overall(&view, &figures, not_enforced.len(), refused.len()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: view.world.config.node_name.to_string(),
        sources: sources(&view),
        attach_mode: service.attach_mode.to_owned(),
        cni_chaining: "generic-veth".to_owned(),
        policy_enforcement: service.options.enable_policy.as_str().to_owned(),
        reconcile: ReconcileStatus {
            input_revision: view.revisions.input,
            plan_revision: view.revisions.plan,
            applied_revision: view.revisions.applied,
            last_writes: view.revisions.last_writes,
            last_sweep_seconds: view.sweep.last.map_or(0, |at| at.elapsed().as_secs()),
            last_sweep_millis: u64::try_from(view.sweep.took.as_millis()).unwrap_or(u64::MAX),
            drift_repaired: view.sweep.repaired,
            hooks_drifted: view.sweep.hooks_drifted,
            pins_restored: view.sweep.pins_restored,
            last_hooks_micros: u64::try_from(view.sweep.hooks_took.as_micros()).unwrap_or(u64::MAX),
            hooks_without_link: view.settling.0 as u64,
            hooks_without_link_seconds: view
                .settling
                .1
                .map_or(0, |since| since.elapsed().as_secs()),
            failing: view.failing.clone(),
        },
        endpoints,
        identities: view.state.identities.len(),
        policies: view.world.policies.len(),
        not_enforced: in_doubt(&view).chain(not_enforced).collect(),
        refused,
        monitor_readers: service.monitors.readers() as u64,
        events_lost: figures.events_lost,
        flows_evicted: figures.evicted.flows,
        choices_evicted: figures.evicted.choices,
        latest_choices_evicted: figures.evicted.latest_choices,
        maps: figures.maps,
        kernel_writes: figures.writes,
        configuration: service.options.configured.status(),
    })
}

fn figures<N: Node>(node: &mut N, view: &View) -> Result<KernelFigures, ApiError> {
    let failed =
        |error: oxilium_kernel::ObserveError| ApiError::new(ErrorCode::Kernel, error.to_string());
    let maps = node
        .usage(&view.table_entries)
        .map_err(failed)?
        .into_iter()
        .map(|usage| MapStatus {
            name: usage.name.clone(),
            max_entries: usage.capacity,
            entries: usage
                .entries
                .map(|entries| u32::try_from(entries).unwrap_or(u32::MAX)),
            memory_bytes: Some(usage.memory),
        })
        .collect();
    let counters = node.counters().map_err(failed)?;
    let mut writes = KernelWrites::default();
    for ((target, action), count) in node.writes() {
        writes.total += count.calls;
        writes
            .by_table
            .insert(format!("{target}/{action}"), count.calls);
    }
    Ok(KernelFigures {
        maps,
        writes,
        evicted: node.evicted(),
        events_lost: counters
            .iter()
            .filter(|((_, reason), _)| *reason == COUNTER_EVENT_LOST)
            .map(|(_, counter)| counter.packets)
            .sum(),
        half_seen: half_seen(node, view).unwrap_or_else(|error| {
            Some(format!(
                "it cannot be told whether netfilter sees both halves of connections to services: {error}"
            ))
        }),
    })
}

/// Pods on which nothing is enforced.
fn in_doubt(view: &View) -> impl Iterator<Item = FailingObject> {
    view.in_doubt.iter().map(|(pod, reason)| FailingObject {
        object: format!("Pod {pod}"),
        reason: reason.to_string(),
    })
}

/// Policies of which something is not enforced, and everything else that is not as asked.
fn conditions(view: &View) -> (Vec<FailingObject>, Vec<FailingObject>) {
    let mut not_enforced = Vec::new();
    let mut refused = view.source.refused.clone();
    refused.extend(
        view.source
            .pruned
            .iter()
            .map(|(policy, fields)| FailingObject {
                object: policy.to_string(),
                reason: format!("{FIELDS_PRUNED}: {fields}"),
            }),
    );
    for condition in &view.state.conditions {
        let failing = FailingObject {
            object: condition.object.to_string(),
            reason: format!("{}: {}", condition.reason.kind(), condition.reason),
        };
        if matches!(condition.reason, Reason::NotEnforced { .. }) {
            not_enforced.push(failing);
        } else {
            refused.push(failing);
        }
    }
    (not_enforced, refused)
}

fn overall(
    view: &View,
    figures: &KernelFigures,
    not_enforced: usize,
    refused: usize,
) -> ComponentStatus {
    let (state, msg) = if let Err(reason) = view.ready() {
        (ComponentState::Failure, reason)
    } else if let Some(failing) = view.unwell.as_ref().or(view.failing.first()) {
        let msg = format!(
            "{} things fail and are tried again, first {}: {}",
            view.failing.len(),
            failing.object,
            failing.reason
        );
        let state = match view.unwell {
            Some(_) => ComponentState::Failure,
            None => ComponentState::Warning,
        };
        (state, msg)
    } else if let Some((pod, reason)) = view.in_doubt.first_key_value() {
        let msg = format!(
            "policy is not enforced on {} pods that were made without the agent, restart them: first {pod}: {reason}",
            view.in_doubt.len()
        );
        (ComponentState::Warning, msg)
    } else if view.revisions.applied < view.revisions.input {
        (
            ComponentState::Warning,
            "changes are being applied".to_owned(),
        )
    } else if let Some(problem) = &view.source.problem {
        (ComponentState::Warning, problem.clone())
    } else if let Some(problem) = &figures.half_seen {
        (ComponentState::Warning, problem.clone())
    } else if let Some(failing) = view.published.failing.first() {
        let msg = format!("{} cannot be published: {}", failing.object, failing.reason);
        (ComponentState::Warning, msg)
    } else if not_enforced + refused > 0 {
        let msg = format!(
            "{refused} objects are not in force as written, {not_enforced} are not enforced in part"
        );
        (ComponentState::Warning, msg)
    } else {
        let version = env!("CARGO_PKG_VERSION");
        (ComponentState::Ok, version.to_owned())
    };
    ComponentStatus { state, msg }
}

fn sources(view: &View) -> Vec<SourceStatus> {
    let attachments = view.world.attachments.len();
    let cni = SourceStatus {
        name: "CNI".to_owned(),
        synced: true,
        status: ComponentStatus {
            state: ComponentState::Ok,
            msg: format!("{attachments} attachments"),
        },
    };
    view.source
        .components
        .iter()
        .cloned()
        .chain([cni])
        .chain(view.published.component())
        .collect()
}
