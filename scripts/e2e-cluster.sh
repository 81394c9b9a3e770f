#!/usr/bin/env bash
# The scenarios of e2e/src/bin/cluster on a real cluster:
#
#   scripts/e2e-cluster.sh [SCENARIO…]    a cluster of three nodes out of namespaces, made and taken down (root); or the
#                                         one that KUBECONFIG names, which must have the images and gets the chart, for
#                                         as long as this runs
#   KEEP=1                                leaves the cluster up
#   THEN=COMMAND                          then runs this command
#   SUITE=REGEX                           then runs those of Kubernetes' own tests, e.g. 'NetworkPolicy'
set -euo pipefail
cd "$(dirname "$0")/.."
. e2e/cluster/lib.sh

take_down() {
    local status=$?
    trap - EXIT
    if [ -n "${KEEP:-}" ]; then
        say "left up: e2e/cluster/down.sh takes it down"
    elif [ "$status" = 0 ]; then
        e2e/cluster/down.sh
    else
        collect_logs
        e2e/cluster/down.sh keep-logs
        say "logs are in $LOGS"
    fi
    exit "$status"
}

collect_logs() {
    local pod
    for pod in $(kubectl_admin -n kube-system get pods -l app.kubernetes.io/part-of=cilium -o name 2>/dev/null); do
        kubectl_admin -n kube-system logs --all-containers --prefix "$pod" >"$LOGS/${pod##*/}.log" 2>&1 || :
    done
}

scripts/helm.sh >/dev/null
cargo build --quiet --package oxilium-e2e --bin oxilium-e2e-cluster
scenarios=target/debug/oxilium-e2e-cluster
if [ -n "${KUBECONFIG:-}" ]; then
    # The cluster is somebody's: what was installed is removed, whatever came of the scenarios.
    [ -n "${KEEP:-}" ] || trap '"$scenarios" uninstall' EXIT
    step "install the chart" "$scenarios" install
    "$scenarios" "$@"
    exit
fi

[ "$(id -u)" = 0 ] || die "a cluster of namespaces needs root"
scripts/cluster-build.sh ${SUITE:+suite}
step "image" scripts/image.sh "$IMAGES/oxilium.tar"
# What nodes are upgraded to, and back from.
PROFILE=dev LAYOUT=test step "image of another layout" scripts/image.sh "$IMAGES/oxilium-other.tar" docker.io/oxilium/oxilium:other-layout
trap take_down EXIT
trap 'exit 130' INT TERM
if [ -d "$PIDS" ]; then
    step "image to the nodes" e2e/cluster/load.sh
    # The image has the name that it had.
    kubectl_admin -n kube-system delete pods -l 'app.kubernetes.io/name in (cilium-agent, cilium-operator)' --wait >/dev/null
else
    e2e/cluster/up.sh "${NODES:-3}"
fi
step "install the chart" "$scenarios" install
status=0
"$scenarios" "$@" || status=$?
[ -z "${THEN:-}" ] || "$THEN" || status=$?
if [ -n "${SUITE:-}" ]; then
    mkdir -p "$LOGS/suite"
    skip=()
    if ! modprobe --quiet sctp && [ ! -d /proc/net/sctp ]; then
        say "this kernel has no SCTP: specs of it are skipped"
        skip=(--skip=SCTP)
    fi
    in_cp "$BIN/ginkgo" --procs="${PROCS:-6}" --focus="$SUITE" "${skip[@]}" --no-color --silence-skips --timeout=60m "$BIN/e2e.test" -- \
        --kubeconfig="$ADMIN" --provider=skeleton --num-nodes="${NODES:-3}" --minStartupPods=0 --report-dir="$LOGS/suite" ||
        say "not every spec passed"
    e2e/cluster/suite-report.py "$LOGS/suite/junit_01.xml" e2e/cluster/suite-known.txt || status=$?
fi
exit "$status"
