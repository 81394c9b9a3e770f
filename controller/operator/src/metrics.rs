//! What Prometheus reads of an operator, under Cilium's names where it has one for it: docs/metrics.md lists all.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use oxilium_agent::metrics::{ApiCalls, LogLines, Process};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::{endpoints, identities};

/// What all names begin with that are Cilium's.
const PREFIX: &str = "cilium_operator";

type Count = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
    identity_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfIdentities {
    outcome: &'static str,
    identity_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

const OUTCOMES: [&str; 2] = ["success", "fail"];
/// There are no others.
const IDENTITY_TYPE: &str = "crd";

/// Handles: a clone counts in the same instruments. What Cilium has as a gauge although it only grows is one here as well.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Requests to the API server.
    pub api_calls: ApiCalls,
    /// Log lines that are warnings or errors.
    pub log_lines: LogLines,
    identity_entries: Family<Status, Count>,
    identity_runs: Family<OfIdentities, Count>,
    identity_seconds: Family<OfIdentities, Gauge<f64, AtomicU64>>,
    endpoints: Family<Outcome, Count>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            api_calls: ApiCalls::default(),
            log_lines: LogLines::default(),
            identity_entries: Family::default(),
            identity_runs: Family::default(),
            identity_seconds: Family::default(),
            endpoints: Family::default(),
        };
        // One that is not there yet has no rate when it comes.
        for outcome in OUTCOMES {
            drop(metrics.identity_runs.get_or_create(&of_identities(outcome)));
            drop(metrics.endpoints.get_or_create(&Outcome { outcome }));
        }
        for status in ["alive", "deleted"] {
            drop(metrics.identity_entries.get_or_create(&entries(status)));
        }
        drop(
            metrics
                .identity_seconds
                .get_or_create(&of_identities(OUTCOMES[0])),
        );
        metrics
    }
}

const fn of_identities(outcome: &'static str) -> OfIdentities {
    OfIdentities {
        outcome,
        identity_type: IDENTITY_TYPE,
    }
}

const fn entries(status: &'static str) -> Status {
    Status {
        status,
        identity_type: IDENTITY_TYPE,
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Metrics {
    /// Identities were looked through, or could not be.
    pub(crate) fn identities(&self, pass: Option<&identities::Pass>, took: Duration) {
        let outcome = OUTCOMES[usize::from(pass.is_none())];
        self.identity_runs
            .get_or_create(&of_identities(outcome))
            .inc();
        let Some(pass) = pass else { return };
        self.identity_seconds
            .get_or_create(&of_identities(outcome))
            .set(took.as_secs_f64());
        let set = |status, count| {
            self.identity_entries
                .get_or_create(&entries(status))
                .set(number(count));
        };
        set("alive", pass.seen.saturating_sub(pass.removed));
        set("deleted", pass.removed);
    }

    /// Endpoints were looked through.
    pub(crate) fn endpoints(&self, pass: &endpoints::Pass) {
        for (outcome, count) in OUTCOMES.into_iter().zip([pass.removed, pass.failed]) {
            self.endpoints
                .get_or_create(&Outcome { outcome })
                .inc_by(number(count));
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            format!("{PREFIX}_identity_gc_entries"),
            "CiliumIdentities that the last collection left and took",
            self.identity_entries.clone(),
        );
        registry.register(
            format!("{PREFIX}_identity_gc_runs"),
            "Times that CiliumIdentities were looked through",
            self.identity_runs.clone(),
        );
        registry.register(
            format!("{PREFIX}_identity_gc_latency"),
            "Seconds that the last collection of CiliumIdentities took",
            self.identity_seconds.clone(),
        );
        registry.register(
            format!("{PREFIX}_endpoint_gc_objects"),
            "Orphaned CiliumEndpoints that were to be removed",
            self.endpoints.clone(),
        );
        self.log_lines.register(registry, PREFIX);
        self.api_calls.register(registry, PREFIX);
    }

    /// The page of one scrape, in the OpenMetrics text format.
    pub fn page(&self, is_leader: bool) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let leader = Count::default();
        leader.set(u64::from(is_leader));
        registry.register(
            "oxilium_operator_leader",
            "1 when this operator is the one that works",
            leader,
        );
        if let Some(process) = Process::read() {
            registry.register_collector(Box::new(process));
        }
        let mut page = String::new();
        // Writing to a String cannot fail, and every descriptor here has a text form.
        if let Err(error) = encode(&mut page, &registry) {
            tracing::error!(%error, "metrics cannot be written");
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    use http::Method;

    use super::*;

    /// Metrics of an operator that has done everything once.
    fn metrics() -> Metrics {
        let metrics = Metrics::default();
        let identities = identities::Pass {
            seen: 7,
            removed: 2,
            ..identities::Pass::default()
        };
        metrics.identities(Some(&identities), Duration::from_millis(250));
        metrics.identities(None, Duration::ZERO);
        let endpoints = endpoints::Pass {
            seen: 9,
            removed: 3,
            failed: 1,
            ..endpoints::Pass::default()
        };
        metrics.endpoints(&endpoints);
        metrics.endpoints(&endpoints);
        let path = "/apis/cilium.io/v2/ciliumidentities/300";
        let time = Duration::from_millis(3);
        let calls = &metrics.api_calls;
        calls.answered("10.96.0.1:443", &Method::DELETE, path, Some(409), time);
        calls.answered("10.96.0.1:443", &Method::DELETE, path, None, time);
        metrics
    }

    #[test]
    fn a_scrape_tells_what_was_collected_and_what_was_asked() {
        let page = metrics().page(true);
        let expected = [
            "oxilium_operator_leader 1",
            "cilium_operator_identity_gc_entries{status=\"alive\",identity_type=\"crd\"} 5",
            "cilium_operator_identity_gc_entries{status=\"deleted\",identity_type=\"crd\"} 2",
            "cilium_operator_identity_gc_runs{outcome=\"success\",identity_type=\"crd\"} 1",
            "cilium_operator_identity_gc_runs{outcome=\"fail\",identity_type=\"crd\"} 1",
            "cilium_operator_identity_gc_latency{outcome=\"success\",identity_type=\"crd\"} 0.25",
            "cilium_operator_endpoint_gc_objects{outcome=\"success\"} 6",
            "cilium_operator_endpoint_gc_objects{outcome=\"fail\"} 2",
            "cilium_operator_errors_warnings_total{level=\"error\"} 0",
            "cilium_operator_k8s_client_api_calls_total{host=\"10.96.0.1:443\",method=\"DELETE\",return_code=\"409\"} 1",
            "cilium_operator_k8s_client_api_calls_total{host=\"10.96.0.1:443\",method=\"DELETE\",return_code=\"<error>\"} 1",
            "cilium_operator_k8s_client_api_latency_time_seconds_count{path=\"/apis/cilium.io/v2/ciliumidentities/{name}\",method=\"DELETE\"} 2",
        ];
        for line in expected {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    /// Type and meaning of each family of a page, by name.
    fn families(page: &str) -> BTreeMap<&str, [&str; 2]> {
        let mut families: BTreeMap<&str, [&str; 2]> = BTreeMap::new();
        for line in page.lines() {
            for (index, what) in ["# TYPE ", "# HELP "].into_iter().enumerate() {
                let words = line
                    .strip_prefix(what)
                    .and_then(|rest| rest.split_once(' '));
                if let Some((name, text)) = words {
                    families.entry(name).or_default()[index] = text;
                }
            }
        }
        families
    }

    #[test]
    fn the_page_in_docs_lists_all_metrics() {
        let page = metrics().page(true);
        let mut table = "| Metric | Type | Meaning |\n|---|---|---|\n".to_owned();
        for (name, [kind, help]) in families(&page) {
            let total = if kind == "counter" { "_total" } else { "" };
            let help = help.trim_end_matches('.');
            writeln!(table, "| `{name}{total}` | {kind} | {help} |").unwrap();
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once("<!-- operator -->\n").unwrap();
        let (_, after) = rest.split_once("<!-- end of operator -->\n").unwrap();
        let wanted = format!("{before}<!-- operator -->\n{table}<!-- end of operator -->\n{after}");
        if std::env::var_os("OXILIUM_UPDATE_DOCS").is_some() {
            fs::write(&path, &wanted).unwrap();
            return;
        }
        assert!(
            text == wanted,
            "docs/metrics.md is stale: OXILIUM_UPDATE_DOCS=1 cargo test -p oxilium-operator --lib"
        );
    }
}
