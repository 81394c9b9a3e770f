# Settings and small functions of the cluster's scripts; sourced, never run.
# shellcheck shell=bash disable=SC2034  # most of it is for the scripts that source this
set -euo pipefail

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What is built once and kept: binaries and images.
CACHE=${OXILIUM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/oxilium}
BIN=$CACHE/cluster/bin
IMAGES=$CACHE/cluster/images
# What is there while a cluster is up. Its name is that of this cluster's namespaces, links and cgroups, too.
NAME=${OXILIUM_CLUSTER:-oxc}
STATE=${OXILIUM_CLUSTER_STATE:-/var/tmp/$NAME}
PKI=$STATE/pki KUBECONFIGS=$STATE/kubeconfig LOGS=$STATE/log PIDS=$STATE/pid
ADMIN=$KUBECONFIGS/admin.conf

CP=$NAME-cp BRIDGE=$NAME-br
CP_IP=172.30.0.1 SERVICES=10.96.0.0/16 PODS=10.244.0.0/16 DNS=10.96.0.10
PATH=$BIN:$PATH:/usr/sbin:/sbin

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# step WHAT COMMAND...: runs it and says how long it took.
step() {
    local what=$1 begin; shift
    begin=$(date +%s%N)
    "$@" || die "$what: failed; logs are in $LOGS"
    printf 'cluster: %-40s %6d ms\n' "$what" $((($(date +%s%N) - begin) / 1000000)) >&2
}

# until_true SECONDS WHAT COMMAND...: asks until it succeeds; polls, since nothing tells.
until_true() {
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "waited in vain for: $what"
        sleep 0.1
    done
}

in_cp() { ip netns exec "$CP" "$@"; }
kubectl_admin() { in_cp "$BIN/kubectl" --kubeconfig "$ADMIN" "$@"; }

# daemon NAME COMMAND...: starts it, with its log and its pid where stop_daemon finds them.
daemon() {
    local name=$1; shift
    setsid "$@" >"$LOGS/$name.log" 2>&1 </dev/null &
    echo $! >"$PIDS/$name"
}

is_up() { [ -f "$PIDS/$1" ] && kill -0 "$(cat "$PIDS/$1")" 2>/dev/null; }
is_down() { ! kill -0 "$1" 2>/dev/null; }

stop_daemon() {
    local pid
    [ -f "$PIDS/$1" ] || return 0
    pid=$(cat "$PIDS/$1")
    kill "$pid" 2>/dev/null || :
    (until_true 5 "$1 to end" is_down "$pid") 2>/dev/null || kill -9 "$pid" 2>/dev/null || :
    rm -f "$PIDS/$1"
}

node_name() { printf 'n%d\n' "$1"; }
node_ip() { printf '172.30.0.1%d\n' "$1"; }
node_pods() { printf '10.244.%d.0/24\n' "$1"; }

# The first process in the node's namespaces.
node_init() {
    local pid
    pid=$(cat "$PIDS/node-$1" 2>/dev/null) || die "node $1 is not up"
    pgrep -P "$pid" | head -n1
}

on_node() { # on_node I COMMAND...
    local init
    init=$(node_init "$1"); shift
    nsenter -t "$init" -m -n -p -u -i -C "$@"
}

# Imports into the node's containerd every image that is newer than its last import. For the node itself.
import_images() {
    local archive mark
    for archive in "$IMAGES"/*.tar; do
        mark=/var/lib/containerd/.imported-${archive##*/}
        [ "$mark" -nt "$archive" ] || { ctr -n k8s.io images import --local "$archive" >/dev/null && touch "$mark"; }
    done
}
