//! Which labels of a pod make its identity: Cilium's default filter, and what its option `labels` adds to it.

use std::sync::Arc;

use regex::Regex;
use thiserror::Error;

/// Labels with these starts count although a start below would leave them out.
const KEPT: [&str; 1] = ["app.kubernetes.io"];

/// Labels with these starts change too often or say nothing of what a pod is.
const LEFT_OUT: [&str; 15] = [
    "io.kubernetes",
    "kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "annotation",
    "etcd_node",
    "topology.kubernetes.io",
    "io.cilium.k8s",
];

/// Labels with this anywhere are left out.
const BETA: &str = "beta.kubernetes.io";

/// Why a rule of the option `labels` is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LabelFilterError {
    /// Nothing after the source or the `!`.
    #[error(
        "`labels`: {rule:?} names no label; write the start of its key, e.g. `k8s:app`, or `k8s:!app` to leave it out"
    )]
    Empty {
        /// The rule.
        rule: String,
    },
    /// A `!` before the source: Cilium would take it for a source that no label has.
    #[error("`labels`: in {rule:?} the `!` belongs after the source: `{source_name}:!…`")]
    Negation {
        /// The rule.
        rule: String,
        /// The source that is meant.
        source_name: String,
    },
    /// The start of the key is a regular expression, and this is none.
    #[error("`labels`: {rule:?} is no regular expression: {reason}")]
    Expression {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A rule of the option.
#[derive(Clone, Debug)]
struct Rule {
    /// It leaves labels out.
    leaves_out: bool,
    /// Matches the start of a key.
    expression: Regex,
}

/// Which labels make identities. By default Cilium 1.20's (`pkg/labelsfilter`), without the labels that are derived
/// (namespace, cluster, service account), which a pod's author cannot write and which always count.
#[derive(Clone, Debug, Default)]
pub struct LabelFilter {
    texts: Arc<[String]>,
    /// Those that labels of Kubernetes objects can match.
    rules: Arc<[Rule]>,
    /// Some rule takes labels in: then others are out.
    takes_in: bool,
}

impl PartialEq for LabelFilter {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for LabelFilter {}

impl LabelFilter {
    /// The rules of the option `labels`, each `[SOURCE:][!]EXPRESSION`, on top of the default ones.
    ///
    /// # Errors
    /// [`LabelFilterError`] for the first rule that is none.
    pub fn new<T: AsRef<str>>(
        rules: impl IntoIterator<Item = T>,
    ) -> Result<Self, LabelFilterError> {
        let mut filter = Self::default();
        let (mut texts, mut parsed) = (Vec::new(), Vec::new());
        for text in rules {
            let text = text.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            texts.push(text.to_owned());
            let (source, rule) = rule(text)?;
            filter.takes_in |= !rule.leaves_out;
            // Labels of pods and namespaces are of source k8s.
            if source.is_none_or(|source| source == "k8s") {
                parsed.push(rule);
            }
        }
        filter.texts = texts.into();
        filter.rules = parsed.into();
        Ok(filter)
    }

    /// A label of a pod with this key is part of the pod's identity.
    pub fn takes(&self, key: &str) -> bool {
        self.judge(key, longest_kept(key), shortest_left_out(key))
    }

    /// So is a label that it inherits from its namespace. `key`: as the pod has it, with its long start. By default all are.
    pub fn takes_inherited(&self, key: &str) -> bool {
        let start = oxilium_model::label::NAMESPACE_LABELS.trim_end_matches('.');
        self.judge(key, start.len(), 0)
    }

    /// The longer match decides; with equal ones a label is out.
    fn judge(&self, key: &str, mut kept: usize, mut left_out: usize) -> bool {
        for rule in &*self.rules {
            let Some(found) = rule.expression.find(key).filter(|found| found.start() == 0) else {
                continue;
            };
            let length = found.end();
            if !rule.leaves_out {
                kept = kept.max(length);
            } else if left_out == 0 || length < left_out {
                left_out = length;
            }
        }
        (!self.takes_in && left_out == 0) || kept > left_out
    }
}

fn rule(text: &str) -> Result<(Option<&str>, Rule), LabelFilterError> {
    let (source, start) = match text.split_once(':') {
        Some((source, start)) => (Some(source), start),
        None => (None, text),
    };
    if let Some(source_name) = source.and_then(|source| source.strip_prefix('!')) {
        return Err(LabelFilterError::Negation {
            rule: text.to_owned(),
            source_name: source_name.to_owned(),
        });
    }
    let (leaves_out, expression) = match start.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, start),
    };
    if expression.is_empty() {
        return Err(LabelFilterError::Empty {
            rule: text.to_owned(),
        });
    }
    let expression = Regex::new(expression).map_err(|error| LabelFilterError::Expression {
        rule: text.to_owned(),
        reason: error.to_string(),
    })?;
    Ok((
        source,
        Rule {
            leaves_out,
            expression,
        },
    ))
}

fn longest_kept(key: &str) -> usize {
    let starts = KEPT.iter().filter(|start| key.starts_with(**start));
    starts.map(|start| start.len()).max().unwrap_or(0)
}

/// 0 for none.
fn shortest_left_out(key: &str) -> usize {
    let starts = LEFT_OUT.iter().filter(|start| key.starts_with(**start));
    let beta = key.rfind(BETA).map(|at| at + BETA.len());
    starts
        .map(|start| start.len())
        .chain(beta)
        .min()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::LabelFilter;

    #[test]
    fn labels_as_cilium_filters_them() {
        let filter = LabelFilter::default();
        for key in [
            "app",
            "app.kubernetes.io/name",
            "example.com/k8s.io",
            "k8s-app",
            "tier",
            "my-controller-uid",
        ] {
            assert!(filter.takes(key), "{key}");
        }
        for key in [
            "pod-template-hash",
            "controller-revision-hash",
            "kubernetes.io/arch",
            "io.kubernetes.pod.namespace",
            "statefulset.kubernetes.io/pod-name",
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone",
            "io.cilium.k8s.policy.cluster",
            "annotation.x",
            "k8s.io/x",
            "batch.kubernetes.io/controller-uid",
        ] {
            assert!(!filter.takes(key), "{key}");
        }
        assert!(filter.takes_inherited("io.cilium.k8s.namespace.labels.env"));
    }

    #[test]
    fn the_option_takes_in_and_leaves_out() {
        // Rules; labels that count; labels that do not.
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
        );
        let cases: [Case; 7] = [
            (
                &["k8s:!tier"],
                &["app", "team"],
                &["tier", "tier-2", "pod-template-hash"],
            ),
            (
                &["k8s:app"],
                &["app", "app-2", "app.kubernetes.io/name"],
                &["tier", "my-app"],
            ),
            (&["k8s:^app$"], &["app"], &["app-2"]),
            // The longer match decides.
            (
                &["k8s:!team", "k8s:team.blue"],
                &["team.blue"],
                &["team.red", "app"],
            ),
            (
                &["k8s:pod-template-hash.*"],
                &["pod-template-hash-of"],
                &["pod-template-hash"],
            ),
            // Of no pod's labels; but one that takes in leaves others out.
            (&["container:!app"], &["app"], &[]),
            (&["reserved:.*"], &[], &["app"]),
        ];
        for (rules, taken, left_out) in cases {
            let filter = LabelFilter::new(rules).unwrap();
            for key in taken {
                assert!(filter.takes(key), "{rules:?} {key}");
            }
            for key in left_out {
                assert!(!filter.takes(key), "{rules:?} {key}");
            }
        }
        let filter = LabelFilter::new([r"k8s:!io\.cilium\.k8s\.namespace\.labels\.build"]).unwrap();
        assert!(filter.takes_inherited("io.cilium.k8s.namespace.labels.env"));
        assert!(!filter.takes_inherited("io.cilium.k8s.namespace.labels.build-number"));
    }

    #[test]
    fn what_is_no_rule_is_told_with_what_would_be() {
        let told: Vec<String> = ["k8s:", "k8s:!", "!", "!k8s:app", "k8s:a("]
            .map(|rule| LabelFilter::new([rule]).unwrap_err().to_string())
            .into();
        insta::assert_snapshot!(told.join("\n"));
    }
}
