//! CiliumCIDRGroup: prefixes that policies can name together.

use serde::{Deserialize, Serialize};

use crate::meta::null_is_default;

crate::object! {
    /// `cilium.io/v2` CiliumCIDRGroup.
    CiliumCIDRGroup, "cilium.io/v2", false {
        /// Its prefixes.
        #[serde(default)]
        spec: CidrGroupSpec,
    }
}

/// `spec` of a CiliumCIDRGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CidrGroupSpec {
    /// The prefixes.
    #[serde(
        rename = "externalCIDRs",
        default,
        deserialize_with = "null_is_default"
    )]
    pub external_cidrs: Vec<String>,
}
