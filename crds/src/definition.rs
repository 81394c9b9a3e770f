//! The definitions of `cilium.io/v2`'s resources: what an API server is told of the kinds.
//!
//! Names, scopes, subresources and columns are those of Cilium 1.20, so that objects, repositories and habits carry over
//! (`pkg/k8s/apis/cilium.io/v2` and `client/crds/v2` there). `make crds` writes them to `crds/yaml`.

use serde_json::{Value, json};

use crate::schema;
use crate::{
    CiliumCIDRGroup, CiliumClusterwideNetworkPolicy, CiliumEndpoint, CiliumIdentity,
    CiliumNetworkPolicy, CiliumNode, CiliumNodeConfig, Resource,
};

pub use yaml::to_yaml;

mod yaml;

/// The group of all of them.
pub const GROUP: &str = "cilium.io";

/// A kind's names and what `kubectl get` shows of it.
struct Names {
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    columns: &'static [Column],
    /// There is a subresource `status`, which roles can give without the rest.
    status: bool,
    /// Versions that are read as `v2` and warned of.
    deprecated: &'static [&'static str],
}

struct Column {
    name: &'static str,
    kind: &'static str,
    path: &'static str,
    description: &'static str,
    /// Shown with `-o wide` only.
    wide: bool,
}

const fn column(name: &'static str, kind: &'static str, path: &'static str) -> Column {
    Column {
        name,
        kind,
        path,
        description: "",
        wide: false,
    }
}

const AGE: Column = column("Age", "date", ".metadata.creationTimestamp");
const VALID: Column = column(
    "Valid",
    "string",
    ".status.conditions[?(@.type=='Valid')].status",
);

const POLICY: Names = Names {
    plural: "ciliumnetworkpolicies",
    short: &["cnp", "ciliumnp"],
    categories: &["cilium", "ciliumpolicy"],
    columns: &[AGE, VALID],
    status: true,
    deprecated: &[],
};

const CLUSTERWIDE: Names = Names {
    plural: "ciliumclusterwidenetworkpolicies",
    short: &["ccnp"],
    columns: &[VALID],
    ..POLICY
};

const ENDPOINT: Names = Names {
    plural: "ciliumendpoints",
    short: &["cep", "ciliumep"],
    categories: &["cilium"],
    columns: &[
        Column {
            description: "Security Identity",
            ..column("Security Identity", "integer", ".status.identity.id")
        },
        Column {
            description: "Ingress enforcement in the endpoint",
            wide: true,
            ..column(
                "Ingress Enforcement",
                "string",
                ".status.policy.ingress.state",
            )
        },
        Column {
            description: "Egress enforcement in the endpoint",
            wide: true,
            ..column(
                "Egress Enforcement",
                "string",
                ".status.policy.egress.state",
            )
        },
        Column {
            description: "Endpoint current state",
            ..column("Endpoint State", "string", ".status.state")
        },
        Column {
            description: "Endpoint IPv4 address",
            ..column("IPv4", "string", ".status.networking.addressing[0].ipv4")
        },
        Column {
            description: "Endpoint IPv6 address",
            ..column("IPv6", "string", ".status.networking.addressing[0].ipv6")
        },
    ],
    status: false,
    deprecated: &[],
};

const IDENTITY: Names = Names {
    plural: "ciliumidentities",
    short: &["ciliumid"],
    categories: &["cilium"],
    columns: &[
        Column {
            description: "The namespace of the entity",
            ..column(
                "Namespace",
                "string",
                r".metadata.labels.io\.kubernetes\.pod\.namespace",
            )
        },
        Column {
            description: "The age of the identity",
            ..AGE
        },
    ],
    status: true,
    deprecated: &[],
};

const NODE: Names = Names {
    plural: "ciliumnodes",
    short: &["cn", "ciliumn"],
    categories: &["cilium"],
    columns: &[
        Column {
            description: "Cilium internal IP for this node",
            ..column(
                "CiliumInternalIP",
                "string",
                r#".spec.addresses[?(@.type=="CiliumInternalIP")].ip"#,
            )
        },
        Column {
            description: "IP of the node",
            ..column(
                "InternalIP",
                "string",
                r#".spec.addresses[?(@.type=="InternalIP")].ip"#,
            )
        },
        Column {
            description: "Time duration since creation of Ciliumnode",
            ..AGE
        },
    ],
    status: true,
    deprecated: &[],
};

const CIDR_GROUP: Names = Names {
    plural: "ciliumcidrgroups",
    short: &["ccg"],
    categories: &["cilium"],
    columns: &[],
    status: false,
    // An API server keeps no definition that lacks a version in which it once stored objects.
    deprecated: &["v2alpha1"],
};

const NODE_CONFIG: Names = Names {
    plural: "ciliumnodeconfigs",
    short: &[],
    categories: &["cilium"],
    columns: &[],
    status: false,
    deprecated: &[],
};

/// Label of a definition with the version of its schema: Cilium's operators compare it, and ours do.
pub const SCHEMA_VERSION_LABEL: &str = "io.cilium.k8s.crd.schema.version";

/// The version of Cilium's schemas that ours stand beside: a definition of a later one is left as it is. To be raised
/// with each change of a schema.
pub const SCHEMA_VERSION: &str = "1.33.11";

/// Every definition, as `apiextensions.k8s.io/v1` CustomResourceDefinition.
pub fn all() -> Vec<Value> {
    vec![
        definition::<CiliumNetworkPolicy>(&POLICY),
        definition::<CiliumClusterwideNetworkPolicy>(&CLUSTERWIDE),
        definition::<CiliumEndpoint>(&ENDPOINT),
        definition::<CiliumIdentity>(&IDENTITY),
        definition::<CiliumNode>(&NODE),
        definition::<CiliumCIDRGroup>(&CIDR_GROUP),
        definition::<CiliumNodeConfig>(&NODE_CONFIG),
    ]
}

/// The file in `crds/yaml` that a definition is written to, as code generators of the field name it.
pub fn file_name(definition: &Value) -> String {
    let plural = definition["spec"]["names"]["plural"]
        .as_str()
        .unwrap_or_default();
    format!("{GROUP}_{plural}.yaml")
}

fn definition<T: Resource + schemars::JsonSchema>(names: &Names) -> Value {
    let (_, version) = T::API_VERSION
        .split_once('/')
        .unwrap_or(("", T::API_VERSION));
    let schema = schema::of::<T>();
    let mut versions = vec![version_of(version, names, &schema)];
    for old in names.deprecated {
        let mut entry = version_of(old, names, &schema);
        entry["storage"] = false.into();
        entry["deprecated"] = true.into();
        versions.push(entry);
    }
    let mut described = json!({
        "kind": T::KIND,
        "listKind": format!("{}List", T::KIND),
        "plural": names.plural,
        "singular": T::KIND.to_lowercase(),
        "categories": names.categories,
    });
    if !names.short.is_empty() {
        described["shortNames"] = json!(names.short);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GROUP}", names.plural),
            "labels": {SCHEMA_VERSION_LABEL: SCHEMA_VERSION},
        },
        "spec": {
            "group": GROUP,
            "names": described,
            "scope": if T::NAMESPACED { "Namespaced" } else { "Cluster" },
            "versions": versions,
        },
    })
}

fn version_of(name: &str, names: &Names, schema: &Value) -> Value {
    let mut version = json!({"name": name, "served": true, "storage": true});
    if !names.columns.is_empty() {
        version["additionalPrinterColumns"] = names.columns.iter().map(printed).collect();
    }
    if names.status {
        version["subresources"] = json!({"status": {}});
    }
    version["schema"] = json!({"openAPIV3Schema": schema});
    version
}

fn printed(column: &Column) -> Value {
    let mut printed = json!({"name": column.name, "type": column.kind, "jsonPath": column.path});
    if !column.description.is_empty() {
        printed["description"] = column.description.into();
    }
    if column.wide {
        printed["priority"] = 1.into();
    }
    printed
}
