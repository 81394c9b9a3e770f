//! CiliumIdentity: a number that the cluster agreed on, and the labels that it stands for.

use std::collections::BTreeMap;

use crate::meta::null_is_default;

crate::object! {
    /// `cilium.io/v2` CiliumIdentity: named as the number.
    #[derive(schemars::JsonSchema)]
    #[schemars(transform = crate::schema::rules::identity)]
    CiliumIdentity, "cilium.io/v2", false {
        /// The labels: `source:key` → value.
        #[serde(rename = "security-labels", default, deserialize_with = "null_is_default")]
        security_labels: BTreeMap<String, String>,
    }
}
