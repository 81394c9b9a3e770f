//! CiliumNodeConfigs: options of the agents on some nodes, which this agent does not follow. Whoever writes one expects it
//! to, so `status` names those that select this node.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use oxilium_api::FailingObject;
use oxilium_manifest::diagnostic::ObjectId;
use oxilium_model::identity::IdentityLabels;
use serde::Deserialize;

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeConfig {
    selector: Selector,
    options: Vec<String>,
}

#[derive(Deserialize)]
struct Object {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    defaults: BTreeMap<String, String>,
    #[serde(default)]
    node_selector: LabelSelector,
}

impl NodeConfig {
    /// From an object's JSON; or what is wrong with it.
    pub(super) fn read(json: &str) -> Result<Self, String> {
        let object: Object = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let Spec {
            defaults,
            node_selector,
        } = object.spec;
        let selector = Selector::try_from(node_selector);
        Ok(Self {
            selector: selector.map_err(|error| format!("spec.nodeSelector: {error}"))?,
            options: defaults.into_keys().collect(),
        })
    }

    /// What is to be told on a node with these labels.
    pub(super) fn told(&self, id: &ObjectId, node: &IdentityLabels) -> Option<FailingObject> {
        let labels = node.iter();
        let labels = labels.map(|label| (label.key().to_owned(), label.value().to_owned()));
        self.selector
            .matches(&labels.collect::<BTreeMap<_, _>>())
            .then(|| FailingObject {
                object: id.to_string(),
                reason: format!(
                    "it selects this node, and CiliumNodeConfigs are not followed: {} as in the ConfigMap, which is every node's",
                    self.options.join(", ")
                ),
            })
    }
}

#[cfg(test)]
mod tests {
    use oxilium_model::label::Label;
    use serde_json::{Value, json};

    use super::super::resource::Resource;
    use super::*;

    fn told(selector: &Value) -> Option<String> {
        let object = json!({"metadata": {}, "spec": {
            "defaults": {"policy-audit-mode": "true", "debug": "true"}, "nodeSelector": selector}});
        let config = NodeConfig::read(&object.to_string()).unwrap();
        let label = |text: &str| Label::parse(text).unwrap();
        let node = vec![label("k8s:pool=edge"), label("k8s:zone=a")].into();
        let id = Resource::CiliumNodeConfigs.object("kube-system", "edge");
        let told = config.told(&id, &node)?;
        Some(format!("{}: {}", told.object, told.reason))
    }

    #[test]
    fn one_that_selects_the_node_is_named_with_its_options() {
        let expression = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "pool", "operator": operator, "values": values}]});
        for (selector, selects) in [
            (json!({}), true),
            (json!({"matchLabels": {"pool": "edge"}}), true),
            (json!({"matchLabels": {"pool": "edge", "zone": "b"}}), false),
            (expression("In", &["core", "edge"]), true),
            (expression("NotIn", &["edge"]), false),
            (expression("DoesNotExist", &[]), false),
        ] {
            assert_eq!(told(&selector).is_some(), selects, "{selector}");
        }
        insta::assert_snapshot!(told(&json!({})).unwrap(), @"CiliumNodeConfig kube-system/edge: it selects this node, and CiliumNodeConfigs are not followed: debug, policy-audit-mode as in the ConfigMap, which is every node's");
    }

    #[test]
    fn what_is_no_selector_is_said() {
        let object = json!({"spec": {"nodeSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}});
        let error = NodeConfig::read(&object.to_string()).unwrap_err();
        assert!(error.starts_with("spec.nodeSelector: "), "{error}");
    }
}
