//! The 83 keys of a ConfigMap as Cilium 1.13 is installed with: none stops the agent, each is honoured or told of.

use oxilium_agent::config::keys::{self, Treatment};

use super::with_files;

const CONFIG_MAP: [(&str, &str); 83] = [
    (
        "agent-not-ready-taint-key",
        "node.cilium.io/agent-not-ready",
    ),
    ("arping-refresh-period", "30s"),
    ("auto-direct-node-routes", "false"),
    ("bpf-lb-external-clusterip", "false"),
    ("bpf-lb-map-max", "65536"),
    ("bpf-lb-sock", "false"),
    ("bpf-map-dynamic-size-ratio", "0.0025"),
    ("bpf-policy-map-max", "16384"),
    ("bpf-root", "/sys/fs/bpf"),
    ("cgroup-root", "/run/cilium/cgroupv2"),
    ("cilium-endpoint-gc-interval", "5m0s"),
    ("cluster-id", "0"),
    ("cluster-name", "default"),
    ("cluster-pool-ipv4-cidr", "10.0.0.0/8"),
    ("cluster-pool-ipv4-mask-size", "24"),
    ("cni-uninstall", "true"),
    ("custom-cni-conf", "false"),
    ("debug", "false"),
    ("debug-verbose", ""),
    ("disable-cnp-status-updates", "true"),
    ("disable-endpoint-crd", "false"),
    ("enable-auto-protect-node-port-range", "true"),
    ("enable-bgp-control-plane", "false"),
    ("enable-bpf-clock-probe", "true"),
    ("enable-endpoint-health-checking", "true"),
    ("enable-health-check-nodeport", "true"),
    ("enable-health-checking", "true"),
    ("enable-hubble", "true"),
    ("enable-ipv4", "true"),
    ("enable-ipv4-masquerade", "true"),
    ("enable-ipv6", "false"),
    ("enable-ipv6-big-tcp", "false"),
    ("enable-ipv6-masquerade", "true"),
    ("enable-k8s-terminating-endpoint", "true"),
    ("enable-l2-neigh-discovery", "true"),
    ("enable-l7-proxy", "true"),
    ("enable-local-redirect-policy", "false"),
    ("enable-policy", "default"),
    ("enable-remote-node-identity", "true"),
    ("enable-sctp", "false"),
    ("enable-svc-source-range-check", "true"),
    ("enable-vtep", "false"),
    ("enable-well-known-identities", "false"),
    ("enable-xt-socket-fallback", "true"),
    ("hubble-disable-tls", "false"),
    ("hubble-listen-address", ":4244"),
    ("hubble-socket-path", "/var/run/cilium/hubble.sock"),
    (
        "hubble-tls-cert-file",
        "/var/lib/cilium/tls/hubble/server.crt",
    ),
    (
        "hubble-tls-client-ca-files",
        "/var/lib/cilium/tls/hubble/client-ca.crt",
    ),
    (
        "hubble-tls-key-file",
        "/var/lib/cilium/tls/hubble/server.key",
    ),
    ("identity-allocation-mode", "crd"),
    ("identity-gc-interval", "15m0s"),
    ("identity-heartbeat-timeout", "30m0s"),
    ("install-no-conntrack-iptables-rules", "false"),
    ("ipam", "cluster-pool"),
    ("kube-proxy-replacement", "disabled"),
    ("kube-proxy-replacement-healthz-bind-address", ""),
    ("monitor-aggregation", "medium"),
    ("monitor-aggregation-flags", "all"),
    ("monitor-aggregation-interval", "5s"),
    ("node-port-bind-protection", "true"),
    ("nodes-gc-interval", "5m0s"),
    ("operator-api-serve-addr", "127.0.0.1:9234"),
    ("preallocate-bpf-maps", "false"),
    ("procfs", "/host/proc"),
    ("remove-cilium-node-taints", "true"),
    ("set-cilium-is-up-condition", "true"),
    ("sidecar-istio-proxy-image", "cilium/istio_proxy"),
    ("skip-cnp-status-startup-clean", "false"),
    ("synchronize-k8s-nodes", "true"),
    ("tofqdns-dns-reject-response-code", "refused"),
    ("tofqdns-enable-dns-compression", "true"),
    ("tofqdns-endpoint-max-ip-per-hostname", "50"),
    ("tofqdns-idle-connection-grace-period", "0s"),
    ("tofqdns-max-deferred-connection-deletes", "10000"),
    ("tofqdns-min-ttl", "3600"),
    ("tofqdns-proxy-response-max-delay", "100ms"),
    ("tunnel", "vxlan"),
    ("unmanaged-pod-watcher-interval", "15"),
    ("vtep-cidr", ""),
    ("vtep-endpoint", ""),
    ("vtep-mac", ""),
    ("vtep-mask", ""),
];

#[test]
fn each_of_the_83_keys_is_honoured_or_done_anyway_or_told_of() {
    let (_, configured) = with_files(&CONFIG_MAP, &[]).unwrap();
    assert!(configured.unknown.is_empty(), "{:?}", configured.unknown);
    let lines: Vec<String> = CONFIG_MAP
        .iter()
        .map(|(name, value)| {
            let key = keys::find(name).unwrap();
            let told = configured.unsupported.iter().find(|told| told.key == *name);
            let what = match (key.treatment, told) {
                (Treatment::Option(programs), None) => {
                    let names: Vec<_> = programs.iter().map(|program| program.name()).collect();
                    format!("option of {}", names.join(", "))
                }
                (_, Some(told)) => format!("told: {}", told.why),
                (_, None) if value.is_empty() => "empty".to_owned(),
                (_, None) => "done anyway".to_owned(),
            };
            format!("{name}={value}: {what}")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}
