//! Policy, identities and what protects a node.

use super::Kind::{Bool, Duration, Number, OneOf, Text};
use super::{AGENT, FALSE, Key, TRUE, always, only, option, unused};

const ENCRYPTION: &str = "traffic is not encrypted: pods' packets would go in the clear";
const DNS: &str =
    "FQDN rules are not enforced yet: they allow nothing, and the policy has a condition";

pub(super) const KEYS: &[Key] = &[
    option(
        AGENT,
        "enable-policy",
        OneOf(&["default", "always", "never"]),
        "whom policy is enforced on",
    ),
    option(
        AGENT,
        "allow-localhost",
        OneOf(&["auto", "always", "policy"]),
        "may the node reach its own pods",
    ),
    option(
        AGENT,
        "bpf-policy-map-max",
        Number(1, u32::MAX as u64),
        "entries of one policy table and direction",
    ),
    option(
        AGENT,
        "bpf-ct-global-tcp-max",
        Number(1, u32::MAX as u64),
        "answered flows that are remembered",
    ),
    option(
        AGENT,
        "bpf-ct-global-any-max",
        Number(1, u32::MAX as u64),
        "unanswered flows that are remembered",
    ),
    option(
        AGENT,
        "bpf-conntrack-accounting",
        Bool,
        "flows that are remembered count their packets and bytes",
    ),
    option(
        AGENT,
        "conntrack-gc-interval",
        Duration,
        "time between two removals of flows that ended; 0s: 10 seconds to 5 minutes, as the tables fill",
    ),
    only(
        "enable-host-firewall",
        Bool,
        FALSE,
        "the node's own traffic is not filtered yet: policies that select nodes would protect nothing",
    ),
    only(
        "policy-audit-mode",
        Bool,
        FALSE,
        "policies are enforced, where their owner expects them only to be tried; a single policy is tried with `enforcement: Audit`",
    ),
    only(
        "policy-cidr-match-mode",
        Text,
        &[],
        "prefixes select what is outside the cluster; a rule that denies nodes by prefix would deny nothing",
    ),
    only("enable-wireguard", Bool, FALSE, ENCRYPTION),
    only("enable-ipsec", Bool, FALSE, ENCRYPTION),
    only("encrypt-node", Bool, FALSE, ENCRYPTION),
    only("enable-encryption-strict-mode", Bool, FALSE, ENCRYPTION),
    only(
        "enable-encryption-strict-mode-egress",
        Bool,
        FALSE,
        ENCRYPTION,
    ),
    only(
        "enable-encryption-strict-mode-ingress",
        Bool,
        FALSE,
        ENCRYPTION,
    ),
    only("enable-ztunnel", Bool, FALSE, ENCRYPTION),
    always(
        "enable-ipv4-egress-gateway",
        Bool,
        FALSE,
        "traffic leaves by its own node",
    ),
    always(
        "enable-egress-gateway",
        Bool,
        FALSE,
        "traffic leaves by its own node",
    ),
    always(
        "enable-k8s-networkpolicy",
        Bool,
        TRUE,
        "NetworkPolicies are always enforced",
    ),
    always(
        "enable-cilium-network-policy",
        Bool,
        TRUE,
        "CiliumNetworkPolicies are always enforced",
    ),
    always(
        "enable-cilium-clusterwide-network-policy",
        Bool,
        TRUE,
        "CiliumClusterwideNetworkPolicies are always enforced",
    ),
    option(
        AGENT,
        "labels",
        Text,
        "which labels of pods make identities, on top of the default rules",
    ),
    always(
        "enable-source-ip-verification",
        Bool,
        TRUE,
        "a pod speaks only for itself; --allow-spoofing names who may do otherwise",
    ),
    always(
        "enable-remote-node-identity",
        Bool,
        TRUE,
        "another node is never `host`",
    ),
    always(
        "enable-sctp",
        Bool,
        TRUE,
        "SCTP is judged as TCP and UDP are",
    ),
    always(
        "enable-icmp-rules",
        Bool,
        TRUE,
        "rules for ICMP are enforced",
    ),
    always(
        "enable-non-default-deny-policies",
        Bool,
        TRUE,
        "`enableDefaultDeny` is heeded",
    ),
    always(
        "policy-deny-response",
        OneOf(&["none", "icmp"]),
        &["none"],
        "a denied packet is dropped without an answer",
    ),
    always(
        "enable-ipv4",
        Bool,
        TRUE,
        "IPv4 is judged by policy on every node",
    ),
    always(
        "enable-ipv6",
        Bool,
        TRUE,
        "IPv6 is judged by policy on every node",
    ),
    always(
        "enable-l7-proxy",
        Bool,
        FALSE,
        "rules for layer 7 drop what they would inspect, and the policy has a condition",
    ),
    always(
        "mesh-auth-enabled",
        Bool,
        FALSE,
        "rules that demand authentication drop, and the policy has a condition",
    ),
    always(
        "enable-k8s-terminating-endpoint",
        Bool,
        TRUE,
        "a terminating endpoint keeps its connections",
    ),
    unused(
        "http-retry-count",
        Number(0, u64::MAX),
        "no proxy for layer 7",
    ),
    unused(
        "proxy-connect-timeout",
        Number(0, u64::MAX),
        "no proxy for layer 7",
    ),
    unused("sidecar-istio-proxy-image", Text, "no proxy for layer 7"),
    unused(
        "enable-xt-socket-fallback",
        Bool,
        "no proxy for layer 7, and no iptables rules",
    ),
    unused("enable-policy-secrets-sync", Bool, "no proxy for layer 7"),
    unused("tofqdns-dns-reject-response-code", Text, DNS),
    unused("tofqdns-enable-dns-compression", Bool, DNS),
    unused(
        "tofqdns-endpoint-max-ip-per-hostname",
        Number(0, u64::MAX),
        DNS,
    ),
    unused("tofqdns-idle-connection-grace-period", Duration, DNS),
    unused(
        "tofqdns-max-deferred-connection-deletes",
        Number(0, u64::MAX),
        DNS,
    ),
    unused("tofqdns-min-ttl", Number(0, u64::MAX), DNS),
    unused("tofqdns-proxy-response-max-delay", Duration, DNS),
    unused("tofqdns-proxy-port", Number(0, 65_535), DNS),
    unused("tofqdns-pre-cache", Text, DNS),
    unused("dnsproxy-enable-transparent-mode", Bool, DNS),
];
