#!/usr/bin/env bash
# One node, in namespaces of its own (net, mount, pid, uts, ipc, cgroup) as kind's node containers are.
#
#   node.sh up I       I = 1…9; CNI=flannel|none  PROXY=nftables|iptables|none
#   node.sh down I     as a crash would; the Node object stays
. "$(dirname "$0")/lib.sh"
[ $# -eq 2 ] || die "node.sh up|down I"
number=$2
name=$(node_name "$number")
netns=$NAME-$name
export CNI=${CNI:-flannel} PROXY=${PROXY:-nftables}

plug_in() {
    local others peer
    ip netns add "$netns"
    ip -n "$CP" link add "v$number" type veth peer name eth0 netns "$netns"
    ip -n "$CP" link set "v$number" master "$BRIDGE" up
    ip -n "$netns" link set lo up
    ip -n "$netns" addr add "$(node_ip "$number")/24" dev eth0
    ip -n "$netns" link set eth0 up
    ip -n "$netns" route add default via "$CP_IP"
    ip -n "$CP" route replace "$(node_pods "$number")" via "$(node_ip "$number")"
    # What flannel's daemon with its host-gw backend would keep.
    others=$(seq 9 | grep -vx "$number")
    for peer in $others; do
        ip -n "$netns" route replace "$(node_pods "$peer")" via "$(node_ip "$peer")"
    done
}

# One cgroup in each hierarchy. In a cpuset nothing runs before its CPUs and memory are filled in.
cgroups() {
    local hierarchy own file
    for hierarchy in /sys/fs/cgroup/*/; do
        [ -f "$hierarchy/cgroup.procs" ] || continue
        for own in "$hierarchy$NAME" "$hierarchy$NAME/$name"; do
            mkdir -p "$own"
            [ -f "$own/cpuset.cpus" ] || continue
            for file in cpuset.cpus cpuset.mems; do
                [ -n "$(cat "$own/$file")" ] || cat "$(dirname "$own")/$file" >"$own/$file"
            done
            echo 1 >"$own/cgroup.clone_children"
        done
    done
}

enter_cgroups='for procs in /sys/fs/cgroup/*/'$NAME/$name'/cgroup.procs; do
    case $procs in */unified/*) ;; *) echo $$ >"$procs" ;; esac
done'

boot() {
    # shellcheck disable=SC2016
    setsid bash -c "$enter_cgroups"'
        exec ip netns exec "$0" unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --mount-proc \
            --propagation private "$@"' "$netns" "$CLUSTER_DIR/node-init.sh" "$number" \
        >"$LOGS/$name.log" 2>&1 </dev/null &
    echo $! >"$PIDS/node-$number"
}

is_registered() { kubectl_admin get node "$name"; }

up() {
    local cidr
    cidr=$(node_pods "$number")
    "$CLUSTER_DIR/pki.sh" "$name"
    plug_in
    cgroups
    boot
    until_true 90 "$name to register" is_registered
    kubectl_admin patch node "$name" -p "{\"spec\":{\"podCIDR\":\"$cidr\",\"podCIDRs\":[\"$cidr\"]}}" >/dev/null
    [ "$CNI" = none ] || kubectl_admin wait --for=condition=Ready "node/$name" --timeout=90s >/dev/null
}

no_cgroups() {
    find /sys/fs/cgroup/*/"$NAME/$name" -depth -type d -exec rmdir {} + 2>/dev/null
    ! ls -d /sys/fs/cgroup/*/"$NAME/$name" >/dev/null 2>&1
}

down() {
    local pid
    pid=$(cat "$PIDS/node-$number" 2>/dev/null) || return 0
    # --kill-child ends the whole pid namespace.
    kill -9 "$pid" 2>/dev/null || :
    until_true 10 "$name to end" is_down "$pid"
    rm -f "$PIDS/node-$number"
    ip netns del "$netns" 2>/dev/null || :
    (until_true 10 "the cgroups of $name to be empty" no_cgroups) || say "cgroups of $name are left"
}

case $1 in
    up) step "$name" up ;;
    down) step "$name down" down ;;
    *) die "node.sh up|down I" ;;
esac
