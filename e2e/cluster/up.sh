#!/usr/bin/env bash
# A Kubernetes cluster on this machine, without docker: up.sh [NODES, default 3]
#
#   CNI=flannel|none            the flannel plugin with static routes; none: nodes wait for a network provider
#   PROXY=nftables|iptables|none
#
# Then: e2e/cluster/kubectl …, e2e/cluster/on-node I COMMAND…, e2e/cluster/down.sh
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || die "a cluster of namespaces needs root"
[ ! -d "$PIDS" ] || die "a cluster named $NAME is up, or was not taken down: e2e/cluster/down.sh"
[ -x "$BIN/kubelet" ] || die "nothing is built: scripts/cluster-build.sh"
for number in $(seq "${1:-3}"); do numbers+=("$number"); done

begin=$SECONDS
"$CLUSTER_DIR/control-plane.sh"
starting=()
for number in "${numbers[@]}"; do
    "$CLUSTER_DIR/node.sh" up "$number" &
    starting+=($!)
done
for pid in "${starting[@]}"; do wait "$pid" || die "a node did not come up; logs are in $LOGS"; done
kubectl_admin apply -f "$CLUSTER_DIR/coredns.yaml" >/dev/null
if [ "${CNI:-flannel}" != none ]; then
    step "CoreDNS" kubectl_admin -n kube-system rollout status deployment/coredns --timeout=90s >/dev/null
fi
say "${#numbers[@]} nodes after $((SECONDS - begin)) s"
