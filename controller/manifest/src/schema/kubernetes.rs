//! Metadata of all objects, `networking.k8s.io/v1` NetworkPolicy and `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.

use super::{Nulls, Object, Schema, TEXT, TEXTS, choice, list, object};

/// `metadata` as a required field.
pub(crate) const METADATA: (&str, &str) = ("metadata", "the name of the object, and its namespace");

/// `metadata`.
pub(crate) const METADATA_SCHEMA: Schema = Schema::Object(Object {
    nulls: Nulls::Absent,
    required: &[],
    one_of: &[],
    fields: &[
        ("name", &TEXT),
        ("generateName", &TEXT),
        ("namespace", &TEXT),
        ("labels", &TEXTS),
        ("annotations", &TEXTS),
        ("uid", &TEXT),
        ("resourceVersion", &TEXT),
        ("generation", &Schema::Integer(i64::MIN, i64::MAX)),
        ("creationTimestamp", &TEXT),
        ("deletionTimestamp", &TEXT),
        (
            "deletionGracePeriodSeconds",
            &Schema::Integer(i64::MIN, i64::MAX),
        ),
        ("finalizers", &list(&TEXT)),
        ("ownerReferences", &list(&Schema::Any)),
        ("managedFields", &list(&Schema::Any)),
        ("selfLink", &TEXT),
        ("clusterName", &TEXT),
    ],
});

const REQUIREMENT: Schema = Schema::Object(Object {
    nulls: Nulls::Refused,
    fields: &[
        ("key", &TEXT),
        (
            "operator",
            &choice(&["In", "NotIn", "Exists", "DoesNotExist"], &[]),
        ),
        ("values", &list(&TEXT)),
    ],
    required: &[
        ("key", "the key of the label"),
        ("operator", "In, NotIn, Exists or DoesNotExist"),
    ],
    one_of: &[],
});

const SELECTOR: Schema = object(&[
    ("matchLabels", &TEXTS),
    ("matchExpressions", &list(&REQUIREMENT)),
]);

const PORT: Schema = object(&[
    ("port", &Schema::IntegerOrText),
    ("endPort", &Schema::Integer(i64::MIN, i64::MAX)),
    ("protocol", &TEXT),
]);

const PEER: Schema = object(&[
    ("podSelector", &SELECTOR),
    ("namespaceSelector", &SELECTOR),
    (
        "ipBlock",
        &Schema::Object(Object {
            nulls: Nulls::Refused,
            fields: &[("cidr", &TEXT), ("except", &list(&TEXT))],
            required: &[("cidr", "a prefix such as 10.0.0.0/8")],
            one_of: &[],
        }),
    ),
]);

/// NetworkPolicy.
pub(crate) const NETWORK_POLICY: Schema = Schema::Object(Object {
    nulls: Nulls::Absent,
    fields: &[
        ("apiVersion", &TEXT),
        ("kind", &TEXT),
        ("metadata", &METADATA_SCHEMA),
        (
            "spec",
            &object(&[
                ("podSelector", &SELECTOR),
                ("policyTypes", &list(&choice(&["Ingress", "Egress"], &[]))),
                (
                    "ingress",
                    &list(&object(&[("from", &list(&PEER)), ("ports", &list(&PORT))])),
                ),
                (
                    "egress",
                    &list(&object(&[("to", &list(&PEER)), ("ports", &list(&PORT))])),
                ),
            ]),
        ),
        ("status", &Schema::Any),
    ],
    required: &[METADATA],
    one_of: &[],
});

const PODS: Schema = object(&[("namespaceSelector", &SELECTOR), ("podSelector", &SELECTOR)]);

const TRANSPORT: Schema = object(&[(
    "destinationPort",
    &object(&[
        ("number", &Schema::Integer(1, 65535)),
        (
            "range",
            &Schema::Object(Object {
                nulls: Nulls::Refused,
                fields: &[
                    ("start", &Schema::Integer(1, 65535)),
                    ("end", &Schema::Integer(1, 65535)),
                ],
                required: &[("start", "the first port"), ("end", "the last port")],
                one_of: &[],
            }),
        ),
    ]),
)]);

const PROTOCOLS: Schema = list(&object(&[
    ("tcp", &TRANSPORT),
    ("udp", &TRANSPORT),
    ("sctp", &TRANSPORT),
    ("destinationNamedPort", &TEXT),
]));

const ACTION: Schema = choice(&["Accept", "Deny", "Pass"], &[]);

const ACTION_REQUIRED: &[(&str, &str)] = &[("action", "Accept, Deny or Pass")];

/// ClusterNetworkPolicy.
pub(crate) const CLUSTER_NETWORK_POLICY: Schema = Schema::Object(Object {
    nulls: Nulls::Absent,
    fields: &[
        ("apiVersion", &TEXT),
        ("kind", &TEXT),
        ("metadata", &METADATA_SCHEMA),
        (
            "spec",
            &Schema::Object(Object {
                nulls: Nulls::Refused,
                fields: &[
                    ("tier", &choice(&["Admin", "Baseline"], &[])),
                    ("priority", &Schema::Integer(0, 1000)),
                    (
                        "subject",
                        &Schema::Object(Object {
                            nulls: Nulls::Refused,
                            fields: &[("namespaces", &SELECTOR), ("pods", &PODS)],
                            required: &[],
                            one_of: &["namespaces", "pods"],
                        }),
                    ),
                    (
                        "ingress",
                        &list(&Schema::Object(Object {
                            nulls: Nulls::Refused,
                            fields: &[
                                ("name", &TEXT),
                                ("action", &ACTION),
                                (
                                    "from",
                                    &list(&object(&[("namespaces", &SELECTOR), ("pods", &PODS)])),
                                ),
                                ("protocols", &PROTOCOLS),
                            ],
                            required: ACTION_REQUIRED,
                            one_of: &[],
                        })),
                    ),
                    (
                        "egress",
                        &list(&Schema::Object(Object {
                            nulls: Nulls::Refused,
                            fields: &[
                                ("name", &TEXT),
                                ("action", &ACTION),
                                (
                                    "to",
                                    &list(&object(&[
                                        ("namespaces", &SELECTOR),
                                        ("pods", &PODS),
                                        ("nodes", &SELECTOR),
                                        ("networks", &list(&TEXT)),
                                        ("domainNames", &list(&TEXT)),
                                    ])),
                                ),
                                ("protocols", &PROTOCOLS),
                            ],
                            required: ACTION_REQUIRED,
                            one_of: &[],
                        })),
                    ),
                ],
                required: &[
                    ("tier", "Admin or Baseline"),
                    ("priority", "a whole number from 0 (first) to 1000"),
                    ("subject", "the pods that the policy is for"),
                ],
                one_of: &[],
            }),
        ),
        ("status", &Schema::Any),
    ],
    required: &[METADATA, ("spec", "the policy")],
    one_of: &[],
});
