//! CiliumNodeConfig: options of the agents on some nodes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::LabelSelector;
use crate::schema::rules;

crate::object! {
    /// `cilium.io/v2` CiliumNodeConfig: options of the agents on some nodes, over those of the ConfigMap; of several that
    /// name the same option, the one whose name is the last in order has it.
    #[derive(JsonSchema)]
    #[schemars(transform = rules::with_spec)]
    CiliumNodeConfig, "cilium.io/v2", true {
        /// Which options, and where.
        spec: NodeConfigSpec,
    }
}

/// `spec` of a CiliumNodeConfig.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfigSpec {
    /// The options, as in the ConfigMap.
    pub defaults: BTreeMap<String, String>,
    /// The nodes; empty: all.
    pub node_selector: LabelSelector,
}
