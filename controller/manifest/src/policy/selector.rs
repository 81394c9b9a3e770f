//! Label selectors.

use std::collections::BTreeSet;
use std::sync::Arc;

use oxilium_model::policy::selector::{LabelSelector, Operator, Requirement, SelectorKey};

use super::Lowering;
use crate::diagnostic::Problem;
use crate::forms;
use crate::tree::Node;

/// Whose selector it is, which decides what a key may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Cilium's: a key may name the source of the label.
    Cilium,
    /// Kubernetes': labels of Kubernetes only.
    Kubernetes,
    /// Labels of a CiliumCIDRGroup.
    CidrGroup,
}

impl Keys {
    fn valid(self, key: &str) -> bool {
        match self {
            Self::Cilium => forms::is_selector_key(key),
            Self::Kubernetes => forms::is_label_key(key),
            // Cilium takes any source here, and then selects pods where prefixes were meant.
            Self::CidrGroup => forms::is_label_key(key.strip_prefix("cidrgroup:").unwrap_or(key)),
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Self::Cilium => {
                "write a label key: an optional source and ':', an optional DNS prefix in lower case and '/', then at most 63 letters, digits, '-', '_', '.', with a letter or digit at both ends"
            }
            Self::Kubernetes | Self::CidrGroup => {
                "write a label key: an optional DNS prefix in lower case and '/', then at most 63 letters, digits, '-', '_', '.', with a letter or digit at both ends"
            }
        }
    }

    fn key(self, text: &str) -> SelectorKey {
        match self {
            Self::Cilium => SelectorKey::parse(text),
            Self::Kubernetes => SelectorKey::k8s(text),
            Self::CidrGroup => SelectorKey {
                source: Some(oxilium_model::label::LabelSource::CidrGroup),
                key: text.strip_prefix("cidrgroup:").unwrap_or(text).into(),
            },
        }
    }
}

const VALUE: &str = "write a label value: at most 63 letters, digits, '-', '_', '.', with a letter or digit at both ends";

impl<'t> Lowering<'t, '_> {
    /// A label selector; what is wrong in it is reported and left out (the document is refused then).
    pub(super) fn selector(&mut self, node: &'t Node, keys: Keys) -> LabelSelector {
        let mut selector = LabelSelector::default();
        if let Some(labels) = node.set("matchLabels") {
            for member in labels.members() {
                if !keys.valid(&member.name) {
                    self.findings.error_at(
                        labels,
                        &member.name,
                        Problem::Invalid {
                            value: format!("{:?}", member.name),
                            allowed: keys.allowed().into(),
                        },
                    );
                }
                let Some(value) = member.node.text() else {
                    continue;
                };
                // Cilium's own schema checks the values of its objects.
                if keys == Keys::Kubernetes && !forms::is_label_value(value) {
                    self.findings.invalid(&member.node, VALUE);
                }
                selector.labels.insert(keys.key(&member.name), value.into());
            }
        }
        for expression in node.list("matchExpressions") {
            selector
                .expressions
                .extend(self.requirement(expression, keys));
        }
        selector
    }

    fn requirement(&mut self, node: &'t Node, keys: Keys) -> Option<Requirement> {
        let key = node.text_of("key");
        if let (Some(text), Some(at)) = (key, node.get("key"))
            && !keys.valid(text)
        {
            self.findings.invalid(at, keys.allowed());
        }
        let values = node.set("values").map_or(&[][..], Node::items);
        let mut texts = BTreeSet::new();
        for value in values {
            let Some(text) = value.text() else { continue };
            if !forms::is_label_value(text) {
                self.findings.invalid(value, VALUE);
            }
            texts.insert(Arc::from(text));
        }
        let operator = match node.text_of("operator")? {
            operator @ ("In" | "NotIn") => {
                if values.is_empty() {
                    self.findings.error_at(
                        node,
                        "values",
                        Problem::Missing {
                            meaning: format!("{operator} needs at least one value"),
                        },
                    );
                }
                if operator == "In" {
                    Operator::In(texts.into())
                } else {
                    Operator::NotIn(texts.into())
                }
            }
            operator @ ("Exists" | "DoesNotExist") => {
                if let Some(at) = node.set("values").filter(|_| !values.is_empty()) {
                    self.findings.invalid(
                        at,
                        format!("{operator} takes no values: leave them out, or use In or NotIn"),
                    );
                }
                if operator == "Exists" {
                    Operator::Exists
                } else {
                    Operator::DoesNotExist
                }
            }
            // The schema has said so already.
            _ => return None,
        };
        Some(Requirement {
            key: keys.key(key?),
            operator,
        })
    }
}
