//! Parts that are not there: Hubble, other clusters, a key-value store.

use super::Kind::{Bool, Number, Text};
use super::{FALSE, Key, always, only, unused};

const HUBBLE: &str = "there is no Hubble server yet; `oxilium monitor` shows flows on the node";

pub(super) const KEYS: &[Key] = &[
    always("enable-hubble", Bool, FALSE, HUBBLE),
    unused("hubble-disable-tls", Bool, HUBBLE),
    unused("hubble-listen-address", Text, HUBBLE),
    unused("hubble-socket-path", Text, HUBBLE),
    unused("hubble-tls-cert-file", Text, HUBBLE),
    unused("hubble-tls-client-ca-files", Text, HUBBLE),
    unused("hubble-tls-key-file", Text, HUBBLE),
    unused("hubble-metrics", Text, HUBBLE),
    unused("hubble-metrics-server", Text, HUBBLE),
    unused("hubble-export-file-path", Text, HUBBLE),
    unused("hubble-event-buffer-capacity", Number(0, u64::MAX), HUBBLE),
    only(
        "kvstore",
        Text,
        &[],
        "identities are CiliumIdentity objects; agents that agree elsewhere would give the same pods other numbers",
    ),
    unused("kvstore-opt", Text, "there is no key-value store"),
    unused(
        "clustermesh-config",
        Text,
        "other clusters are not read: their pods are `world`",
    ),
    always(
        "clustermesh-enable-endpoint-sync",
        Bool,
        FALSE,
        "other clusters are not read: their pods are `world`",
    ),
];
