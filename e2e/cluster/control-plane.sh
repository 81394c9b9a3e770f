#!/usr/bin/env bash
# etcd, kube-apiserver, controller manager and scheduler in a network namespace, with a bridge that nodes are plugged into.
. "$(dirname "$0")/lib.sh"

network() {
    ip netns add "$CP"
    ip -n "$CP" link set lo up
    ip -n "$CP" link add "$BRIDGE" type bridge
    ip -n "$CP" addr add "$CP_IP/24" dev "$BRIDGE"
    ip -n "$CP" link set "$BRIDGE" up
    in_cp sysctl -qw net.ipv4.ip_forward=0
    # Present only where br_netfilter is; frames between nodes are no business of this namespace's rules.
    in_cp sysctl -qw -e net.bridge.bridge-nf-call-iptables=0
}

api_is_ready() { kubectl_admin get --raw /readyz; }
has_default_account() { kubectl_admin -n default get serviceaccount default; }

# What agents and operators ask, for the comparison with their roles.
audit_policy() {
    cat >"$STATE/audit-policy.yaml" <<X
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:kube-system:cilium", "system:serviceaccount:kube-system:cilium-operator"]
- level: None
X
}

api_server() {
    audit_policy
    daemon etcd ip netns exec "$CP" "$BIN/etcd" --name "$NAME" --data-dir "$STATE/etcd" \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn
    daemon kube-apiserver ip netns exec "$CP" "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --secure-port=6443 --bind-address=0.0.0.0 --advertise-address="$CP_IP" \
        --service-cluster-ip-range="$SERVICES" --authorization-mode=Node,RBAC \
        --audit-policy-file="$STATE/audit-policy.yaml" --audit-log-path="$LOGS/audit.log" --audit-log-maxsize=0 \
        --enable-admission-plugins=NodeRestriction --allow-privileged=true --enable-aggregator-routing=true \
        --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
        --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP,Hostname \
        --requestheader-client-ca-file="$PKI/front-ca.crt" --requestheader-allowed-names=front-proxy-client \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
        --requestheader-username-headers=X-Remote-User \
        --proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key" --v=1
    until_true 60 "the API server" api_is_ready
}

controllers() {
    local own=$KUBECONFIGS/controller-manager.conf
    daemon kube-controller-manager ip netns exec "$CP" "$BIN/kube-controller-manager" --kubeconfig="$own" \
        --authentication-kubeconfig="$own" --authorization-kubeconfig="$own" --bind-address=127.0.0.1 \
        --client-ca-file="$PKI/ca.crt" --root-ca-file="$PKI/ca.crt" --allocate-node-cidrs=false \
        --service-cluster-ip-range="$SERVICES" --service-account-private-key-file="$PKI/sa.key" \
        --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
        --use-service-account-credentials=true --leader-elect=false
    own=$KUBECONFIGS/scheduler.conf
    daemon kube-scheduler ip netns exec "$CP" "$BIN/kube-scheduler" --kubeconfig="$own" \
        --authentication-kubeconfig="$own" --authorization-kubeconfig="$own" --bind-address=127.0.0.1 --leader-elect=false
    until_true 60 "the controller manager" has_default_account
}

mkdir -p "$LOGS" "$PIDS"
case ${1:-all} in
    all)
        step "network of the control plane" network
        step "certificates" "$CLUSTER_DIR/pki.sh"
        step "etcd and kube-apiserver" api_server
        step "controller manager and scheduler" controllers
        ;;
    # For tests of an API server that is away.
    stop-api) stop_daemon kube-apiserver; stop_daemon etcd ;;
    start-api) step "etcd and kube-apiserver" api_server ;;
    *) die "control-plane.sh [stop-api|start-api]" ;;
esac
