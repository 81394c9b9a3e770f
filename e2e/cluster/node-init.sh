#!/usr/bin/env bash
# Process 1 of a node: containerd, kubelet and kube-proxy. All that is mounted or set here is the node's own.
. "$(dirname "$0")/lib.sh"
number=$1
name=$(node_name "$number")
disk=$STATE/nodes/$name

own_directories() {
    local directory
    for directory in /var/lib/kubelet /var/lib/containerd /var/lib/cni /etc/cni /var/log/pods /var/log/containers \
        /opt/cni /etc/containerd /var/lib/oxilium; do
        mkdir -p "$directory" "$disk$directory"
        mount --bind "$disk$directory" "$directory"
    done
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/netns /run/lock /run/flannel
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
}

# A node sees its own part of each hierarchy as the whole, as its cgroup namespace has it.
own_cgroups() {
    local controllers
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for controllers in $(awk -F: '$2 != "" && $2 !~ /^name=/ {print $2}' /proc/self/cgroup); do
        mkdir "/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
    done
    mkdir /sys/fs/cgroup/unified
    mount -t cgroup2 none /sys/fs/cgroup/unified || rmdir /sys/fs/cgroup/unified
    if grep -q 'name=systemd' /proc/self/cgroup; then
        mkdir /sys/fs/cgroup/systemd
        mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    fi
}

# The kubelet sets some of the machine's sysctls: here it sees files that already say what it wants.
stand_in_sysctl() {
    mkdir -p /run/sysctl
    printf '%s\n' "$2" >"/run/sysctl/${1##*/}"
    mount --bind "/run/sysctl/${1##*/}" "/proc/sys/$1"
}

own_kernel_settings() {
    mount -t bpf bpf /sys/fs/bpf
    stand_in_sysctl vm/overcommit_memory 1
    stand_in_sysctl vm/panic_on_oom 0
    stand_in_sysctl kernel/panic 10
    stand_in_sysctl kernel/panic_on_oops 1
    stand_in_sysctl kernel/keys/root_maxkeys 1000000
    stand_in_sysctl kernel/keys/root_maxbytes 25000000
    mount --make-rshared /
    sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
    sysctl -qw -e "net.bridge.bridge-nf-call-iptables=${BRIDGE_NETFILTER:-1}"
}

# Names resolve to nothing, so that an image which is not there fails at once.
own_names() {
    printf 'nameserver 127.0.0.1\n' >/run/resolv.conf
    mount --bind /run/resolv.conf /etc/resolv.conf
    printf '127.0.0.1 localhost\n%s %s\n' "$(node_ip "$number")" "$name" >/run/hosts
    mount --bind /run/hosts /etc/hosts
}

network_provider() {
    mkdir -p /etc/cni/net.d /opt/cni/bin
    cp -u "$BIN"/cni/* /opt/cni/bin/
    rm -f /etc/cni/net.d/*
    [ "$CNI" = flannel ] || return 0
    # Masquerading is flannel's daemon's (who has none between pods); said to be nobody's, the bridge plugin would do it, and
    # pods of other nodes would come by their nodes' addresses.
    printf 'FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=10.244.%d.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n' \
        "$PODS" "$number" >/run/flannel/subnet.env
    cat >/etc/cni/net.d/10-flannel.conflist <<X
{
  "cniVersion": "0.3.1",
  "name": "cbr0",
  "plugins": [
    { "type": "flannel", "delegate": { "hairpinMode": true, "isDefaultGateway": true } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
X
}

runtime_answers() { ctr version; }

container_runtime() {
    cat >/etc/containerd/config.toml <<X
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  # Without CAP_SYS_RESOURCE runc may not lower oom_score_adj.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "/usr/sbin/runc"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
X
    containerd --config /etc/containerd/config.toml >"$LOGS/$name-containerd.log" 2>&1 &
    until_true 30 containerd runtime_answers
    import_images
}

kubelet_config() {
    cat <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [$DNS]
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: /run/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
shutdownGracePeriod: 0s
X
}

proxy_config() {
    cat <<X
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $KUBECONFIGS/proxy.conf}
mode: $PROXY
clusterCIDR: $PODS
hostnameOverride: $name
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
X
}

hostname "$name"
own_directories
own_cgroups
own_kernel_settings
own_names
network_provider
container_runtime
kubelet_config >/run/kubelet.yaml
kubelet --config=/run/kubelet.yaml --kubeconfig="$KUBECONFIGS/$name.conf" --hostname-override="$name" \
    --node-ip="$(node_ip "$number")" --root-dir=/var/lib/kubelet --v=2 >"$LOGS/$name-kubelet.log" 2>&1 &
if [ "$PROXY" != none ]; then
    proxy_config >/run/kube-proxy.yaml
    kube-proxy --config=/run/kube-proxy.yaml --v=2 >"$LOGS/$name-kube-proxy.log" 2>&1 &
fi
# Reaps what its children leave behind.
wait
