//! Cilium's custom resources and the Kubernetes objects read beside them.
