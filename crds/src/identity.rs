//! CiliumIdentity: a number that the cluster agreed on, and the labels that it stands for.

use std::collections::BTreeMap;

use crate::meta::{ObjectMeta, null_is_default};

/// Since when nobody uses the identity, in RFC 3339: the mark of Oxilium's operator.
pub const UNUSED_SINCE: &str = "oxilium.io/unused-since";

/// The mark of Cilium's operator (`HeartBeatAnnotation`).
pub const HEARTBEAT: &str = "io.cilium.heartbeat";

/// Annotations of an identity that its operator deletes after a while. Who uses it takes them away first: the
/// operator deletes no other version than the one that it marked.
pub const MARKS: [&str; 2] = [HEARTBEAT, UNUSED_SINCE];

/// The identity is to be deleted unless somebody takes the mark away.
pub fn is_marked(metadata: &ObjectMeta) -> bool {
    MARKS
        .iter()
        .any(|mark| metadata.annotations.contains_key(*mark))
}

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
