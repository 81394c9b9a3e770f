//! CiliumCIDRGroup: prefixes that policies can name together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::null_is_default;
use crate::schema::{form, rules};

crate::object! {
    /// `cilium.io/v2` CiliumCIDRGroup: prefixes that policies can name together.
    #[derive(JsonSchema)]
    #[schemars(transform = rules::with_spec)]
    CiliumCIDRGroup, "cilium.io/v2", false {
        /// Its prefixes.
        #[serde(default)]
        spec: CidrGroupSpec,
    }
}

/// `spec` of a CiliumCIDRGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[schemars(transform = rules::cidr_group)]
pub struct CidrGroupSpec {
    /// The prefixes.
    #[serde(
        rename = "externalCIDRs",
        default,
        deserialize_with = "null_is_default"
    )]
    #[schemars(with = "Vec<form::Prefix>")]
    pub external_cidrs: Vec<String>,
}
