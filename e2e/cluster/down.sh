#!/usr/bin/env bash
# Ends everything that up.sh started, and removes what it made. `down.sh keep-logs` leaves the logs.
. "$(dirname "$0")/lib.sh"

for pid in "$PIDS"/node-[1-9]; do
    [ ! -f "$pid" ] || "$CLUSTER_DIR/node.sh" down "${pid##*-}" || :
done
stopping=()
for name in kube-scheduler kube-controller-manager kube-apiserver etcd; do
    stop_daemon "$name" &
    stopping+=($!)
done
wait "${stopping[@]}"
for netns in $(ip netns list | awk -v "own=$NAME-" 'index($1, own) == 1 {print $1}'); do ip netns del "$netns"; done
find /sys/fs/cgroup/*/"$NAME" -maxdepth 0 -type d -exec rmdir {} + 2>/dev/null || :
if [ "${1:-}" = keep-logs ]; then
    find "$STATE" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} + 2>/dev/null || :
else
    rm -rf "$STATE"
fi
