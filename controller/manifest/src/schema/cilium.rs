//! `cilium.io/v2`: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, CiliumCIDRGroup and the objects that agents publish.
//!
//! Source: the resource definitions of Cilium 1.20 (`pkg/k8s/apis/cilium.io/client/crds/v2`).

use super::kubernetes::{METADATA, METADATA_SCHEMA};
use super::{List, Nulls, Object, Schema, TEXT, TEXTS, Text, choice, list, object, text};
use crate::forms;

/// At most this many ports, or ICMP types, in one list.
pub(crate) const MAX_PORTS: usize = 40;

const PROTOCOLS: [&str; 11] = [
    "TCP", "UDP", "SCTP", "VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH", "ANY",
];

const ENTITIES: [&str; 12] = [
    "all",
    "world",
    "cluster",
    "cluster-mesh",
    "host",
    "init",
    "ingress",
    "unmanaged",
    "remote-node",
    "health",
    "none",
    "kube-apiserver",
];

const PREFIX: Schema = text(
    |text| forms::prefix(text).is_some(),
    "a prefix such as 10.0.0.0/8 or 2001:db8::/32",
);

/// `fromCIDR` and `toCIDR`: the agent takes a single address too.
const PREFIX_OR_ADDRESS: Schema = Schema::Text(Text {
    check: |text| forms::prefix(text).is_some(),
    allowed: "a prefix such as 10.0.0.0/8 or 2001:db8::/32; a single address is 10.0.0.1/32",
    values: &[],
    agent: &[],
    agent_check: |text| forms::prefix_or_address(text).is_some(),
});

const LABEL_VALUE: Schema = text(
    forms::is_label_value,
    "a label value: at most 63 letters, digits, '-', '_', '.', with a letter or digit at both ends",
);

const OPERATOR: Schema = choice(&["In", "NotIn", "Exists", "DoesNotExist"], &[]);

const REQUIREMENT: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        ("key", &TEXT),
        ("operator", &OPERATOR),
        ("values", &list(&TEXT)),
    ],
    required: &[
        ("key", "the key of the label"),
        ("operator", "In, NotIn, Exists or DoesNotExist"),
    ],
    one_of: &[],
});

const SELECTOR_FIELDS: &[(&str, &Schema)] = &[
    ("matchLabels", &Schema::Map(&LABEL_VALUE)),
    ("matchExpressions", &list(&REQUIREMENT)),
];

/// A label selector.
pub(crate) const SELECTOR: Schema = object(SELECTOR_FIELDS);

const CIDR_RULE: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        ("cidr", &PREFIX),
        (
            "cidrGroupRef",
            &text(
                forms::is_subdomain,
                "the name of a CiliumCIDRGroup: lower case letters, digits, '-' and '.', at most 253",
            ),
        ),
        ("cidrGroupSelector", &SELECTOR),
        ("except", &list(&PREFIX)),
    ],
    required: &[],
    one_of: &["cidr", "cidrGroupRef", "cidrGroupSelector"],
});

const GROUP: Schema = object(&[(
    "aws",
    &object(&[
        ("labels", &TEXTS),
        ("region", &TEXT),
        ("securityGroupsIds", &list(&TEXT)),
        ("securityGroupsNames", &list(&TEXT)),
    ]),
)]);

const REQUIRES: Schema = Schema::List(List {
    item: &TEXT,
    min: 0,
    max: 0,
    split: "fromRequires and toRequires were removed from Cilium, write ingressDeny or egressDeny",
});

const SERVICE: Schema = object(&[
    (
        "k8sService",
        &object(&[("serviceName", &TEXT), ("namespace", &TEXT)]),
    ),
    (
        "k8sServiceSelector",
        &Schema::Object(Object {
            nulls: Nulls::Refused,
            fields: &[("selector", &SELECTOR), ("namespace", &TEXT)],
            required: &[("selector", "the labels of the services")],
            one_of: &[],
        }),
    ),
]);

const FQDN: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        (
            "matchName",
            &text(
                forms::is_fqdn,
                "a DNS name of letters, digits, '-', '_' and single dots, at most 255",
            ),
        ),
        (
            "matchPattern",
            &text(
                forms::is_fqdn_pattern,
                "a DNS name of letters, digits, '-', '_', '*' and single dots, at most 255",
            ),
        ),
    ],
    required: &[],
    one_of: &["matchName", "matchPattern"],
});

const PORT: Schema = object(&[
    (
        "port",
        &text(
            forms::is_schema_port,
            "a port from 0 to 65535 or the name of a port, in quotes",
        ),
    ),
    ("endPort", &Schema::Integer(0, 65535)),
    ("protocol", &choice(&PROTOCOLS, &PROTOCOLS)),
]);

const PORTS: Schema = Schema::List(List {
    item: &PORT,
    min: 0,
    max: MAX_PORTS,
    split: "items of toPorts",
});

const SECRET: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[("name", &TEXT), ("namespace", &TEXT)],
    required: &[("name", "the name of the secret")],
    one_of: &[],
});

const TLS: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        ("secret", &SECRET),
        ("trustedCA", &TEXT),
        ("certificate", &TEXT),
        ("privateKey", &TEXT),
    ],
    required: &[("secret", "the secret with certificates and key")],
    one_of: &[],
});

const HTTP_RULE: Schema = object(&[
    ("path", &TEXT),
    ("method", &TEXT),
    ("host", &TEXT),
    ("headers", &list(&TEXT)),
    (
        "headerMatches",
        &list(&Schema::Object(Object {
            nulls: Nulls::Refused,
            fields: &[
                (
                    "mismatch",
                    &choice(&["LOG", "ADD", "DELETE", "REPLACE"], &[]),
                ),
                ("name", &text(forms::is_nonempty, "the name of a header")),
                ("secret", &SECRET),
                ("value", &TEXT),
            ],
            required: &[("name", "the name of the header")],
            one_of: &[],
        })),
    ),
]);

const L7_RULES: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[("http", &list(&HTTP_RULE)), ("dns", &list(&FQDN))],
    required: &[],
    one_of: &["http", "dns"],
});

const LISTENER: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        (
            "envoyConfig",
            &Schema::Object(Object {
                nulls: Nulls::Refused,
                fields: &[
                    (
                        "kind",
                        &choice(&["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"], &[]),
                    ),
                    (
                        "name",
                        &text(
                            forms::is_nonempty,
                            "the name of the Envoy configuration object",
                        ),
                    ),
                ],
                required: &[("name", "the name of the Envoy configuration object")],
                one_of: &[],
            }),
        ),
        (
            "name",
            &text(forms::is_nonempty, "the name of the listener"),
        ),
        ("priority", &Schema::Integer(1, 100)),
    ],
    required: &[
        (
            "envoyConfig",
            "the Envoy configuration object that defines the listener",
        ),
        ("name", "the name of the listener"),
    ],
    one_of: &[],
});

const SERVER_NAMES: Schema = Schema::List(List {
    item: &text(
        forms::is_fqdn_pattern,
        "a server name of letters, digits, '-', '_', '*' and single dots, at most 255",
    ),
    min: 1,
    max: usize::MAX,
    split: "items of toPorts",
});

const PORT_RULE: Schema = object(&[
    ("ports", &PORTS),
    ("rules", &L7_RULES),
    ("serverNames", &SERVER_NAMES),
    ("listener", &LISTENER),
    ("terminatingTLS", &TLS),
    ("originatingTLS", &TLS),
]);

/// Deny rules end at the port: no L7 rules, names, listeners or TLS.
const PORT_DENY_RULE: Schema = object(&[("ports", &PORTS)]);

const ICMP_RULE: Schema = object(&[(
    "fields",
    &Schema::List(List {
        item: &Schema::Object(Object {
            nulls: Nulls::Refused,
            fields: &[
                ("family", &choice(&["IPv4", "IPv6"], &[])),
                ("type", &Schema::IntegerOrText),
            ],
            required: &[(
                "type",
                "an ICMP type from 0 to 255 or its name, such as EchoRequest",
            )],
            one_of: &[],
        }),
        min: 0,
        max: MAX_PORTS,
        split: "items of icmps",
    }),
)]);

const AUTHENTICATION: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[(
        "mode",
        &choice(&["disabled", "required", "test-always-fail"], &[]),
    )],
    required: &[("mode", "disabled, required or test-always-fail")],
    one_of: &[],
});

const ENTITY: Schema = Schema::Text(Text {
    check: |_| true,
    allowed: "",
    values: &ENTITIES,
    agent: &["world-ipv4", "world-ipv6"],
    agent_check: |_| true,
});

const SELECTORS: Schema = list(&SELECTOR);
const PREFIXES: Schema = list(&PREFIX_OR_ADDRESS);
const CIDR_SET: Schema = list(&CIDR_RULE);
const ENTITY_LIST: Schema = list(&ENTITY);
const GROUPS: Schema = list(&GROUP);
const ICMPS: Schema = list(&ICMP_RULE);
const PORT_RULES: Schema = list(&PORT_RULE);
const PORT_DENY_RULES: Schema = list(&PORT_DENY_RULE);

const INGRESS: Schema = object(&[
    ("fromEndpoints", &SELECTORS),
    ("fromEntities", &ENTITY_LIST),
    ("fromCIDR", &PREFIXES),
    ("fromCIDRSet", &CIDR_SET),
    ("fromNodes", &SELECTORS),
    ("fromGroups", &GROUPS),
    ("fromRequires", &REQUIRES),
    ("toPorts", &PORT_RULES),
    ("icmps", &ICMPS),
    ("authentication", &AUTHENTICATION),
]);

const INGRESS_DENY: Schema = object(&[
    ("fromEndpoints", &SELECTORS),
    ("fromEntities", &ENTITY_LIST),
    ("fromCIDR", &PREFIXES),
    ("fromCIDRSet", &CIDR_SET),
    ("fromNodes", &SELECTORS),
    ("fromGroups", &GROUPS),
    ("fromRequires", &REQUIRES),
    ("toPorts", &PORT_DENY_RULES),
    ("icmps", &ICMPS),
]);

const EGRESS: Schema = object(&[
    ("toEndpoints", &SELECTORS),
    ("toEntities", &ENTITY_LIST),
    ("toCIDR", &PREFIXES),
    ("toCIDRSet", &CIDR_SET),
    ("toFQDNs", &list(&FQDN)),
    ("toServices", &list(&SERVICE)),
    ("toNodes", &SELECTORS),
    ("toGroups", &GROUPS),
    ("toRequires", &REQUIRES),
    ("toPorts", &PORT_RULES),
    ("icmps", &ICMPS),
    ("authentication", &AUTHENTICATION),
]);

const EGRESS_DENY: Schema = object(&[
    ("toEndpoints", &SELECTORS),
    ("toEntities", &ENTITY_LIST),
    ("toCIDR", &PREFIXES),
    ("toCIDRSet", &CIDR_SET),
    ("toServices", &list(&SERVICE)),
    ("toNodes", &SELECTORS),
    ("toGroups", &GROUPS),
    ("toRequires", &REQUIRES),
    ("toPorts", &PORT_DENY_RULES),
    ("icmps", &ICMPS),
]);

const RULE: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        ("description", &TEXT),
        ("endpointSelector", &SELECTOR),
        ("nodeSelector", &SELECTOR),
        ("ingress", &list(&INGRESS)),
        ("ingressDeny", &list(&INGRESS_DENY)),
        ("egress", &list(&EGRESS)),
        ("egressDeny", &list(&EGRESS_DENY)),
        (
            "enableDefaultDeny",
            &object(&[("ingress", &Schema::Bool), ("egress", &Schema::Bool)]),
        ),
        (
            "labels",
            &list(&Schema::Object(Object {
                nulls: Nulls::Refused,
                fields: &[
                    ("key", &text(forms::is_nonempty, "the key of the label")),
                    ("source", &TEXT),
                    ("value", &TEXT),
                ],
                required: &[("key", "the key of the label")],
                one_of: &[],
            })),
        ),
        (
            "log",
            &object(&[(
                "value",
                &text(forms::is_log_value, "at most 32 printable characters"),
            )]),
        ),
    ],
    required: &[],
    one_of: &["endpointSelector", "nodeSelector"],
});

/// CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.
pub(crate) const NETWORK_POLICY: Schema = Schema::Object(Object {
    nulls: Nulls::Absent,
    fields: &[
        ("apiVersion", &TEXT),
        ("kind", &TEXT),
        ("metadata", &METADATA_SCHEMA),
        ("spec", &RULE),
        ("specs", &list(&RULE)),
        ("status", &Schema::Any),
    ],
    required: &[METADATA],
    one_of: &[],
});

/// CiliumCIDRGroup.
pub(crate) const CIDR_GROUP: Schema = Schema::Object(Object {
    nulls: Nulls::Absent,
    fields: &[
        ("apiVersion", &TEXT),
        ("kind", &TEXT),
        ("metadata", &METADATA_SCHEMA),
        (
            "spec",
            &Schema::Object(Object {
                nulls: Nulls::Refused,
                fields: &[("externalCIDRs", &list(&PREFIX_OR_ADDRESS))],
                required: &[("externalCIDRs", "the prefixes of the group")],
                one_of: &[],
            }),
        ),
    ],
    required: &[METADATA, ("spec", "the prefixes of the group")],
    one_of: &[],
});
