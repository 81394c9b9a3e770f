//! Which labels of a pod make its identity: Cilium's default filter.

/// Labels with these starts count although a start below would leave them out.
const KEPT: [&str; 1] = ["app.kubernetes.io"];

/// Labels with these starts change too often or say nothing of what a pod is.
const LEFT_OUT: [&str; 15] = [
    "io.kubernetes",
    "kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "annotation",
    "etcd_node",
    "topology.kubernetes.io",
    "io.cilium.k8s",
];

/// A label of a pod with this key is part of the pod's identity.
///
/// Cilium 1.20's defaults (`pkg/labelsfilter`), without the labels that are derived (namespace, cluster, service account),
/// which a pod's author cannot write.
pub fn is_security_relevant(key: &str) -> bool {
    let starts = |starts: &[&str]| starts.iter().any(|start| key.starts_with(start));
    starts(&KEPT) || !(starts(&LEFT_OUT) || key.contains("beta.kubernetes.io"))
}

#[cfg(test)]
mod tests {
    use super::is_security_relevant;

    #[test]
    fn labels_as_cilium_filters_them() {
        for key in [
            "app",
            "app.kubernetes.io/name",
            "example.com/k8s.io",
            "k8s-app",
            "tier",
            "my-controller-uid",
        ] {
            assert!(is_security_relevant(key), "{key}");
        }
        for key in [
            "pod-template-hash",
            "controller-revision-hash",
            "kubernetes.io/arch",
            "io.kubernetes.pod.namespace",
            "statefulset.kubernetes.io/pod-name",
            "failure-domain.beta.kubernetes.io/zone",
            "topology.kubernetes.io/zone",
            "io.cilium.k8s.policy.cluster",
            "annotation.x",
            "k8s.io/x",
            "batch.kubernetes.io/controller-uid",
        ] {
            assert!(!is_security_relevant(key), "{key}");
        }
    }
}
