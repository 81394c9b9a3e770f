#!/usr/bin/env bash
# Builds what a cluster of namespaces runs: Kubernetes, containerd, CNI plugins, CoreDNS from Go modules, and the images of
# its pods as archives, without docker. Once: what is there is kept, by version. About 15 minutes on two cores.
#
#   scripts/cluster-build.sh [suite]     suite: Kubernetes' own end-to-end tests as well
. "$(dirname "$0")/../e2e/cluster/lib.sh"
root=$(cd "$(dirname "$0")/.." && pwd)

# kube-apiserver, kubectl and etcd are those of scripts/apiserver.sh; the rest of Kubernetes is of the same version.
KUBERNETES=$(sed -nE 's#^.*k8s.io/kubernetes v([^ ]+).*#\1#p' "$root/scripts/apiserver/kubernetes/go.mod" | head -n1)
CONTAINERD=2.2.9 PLUGINS=1.9.1 COREDNS=1.14.7
# flannel's plugin has no module of its own; this is the last release of the plugins that still had it.
PLUGINS_WITH_FLANNEL=0.9.1
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -mod=mod" GOTOOLCHAIN=local
modules=$CACHE/cluster/modules

command -v go >/dev/null || die "no Go compiler: Kubernetes $KUBERNETES needs Go 1.26 or later"
mkdir -p "$BIN/cni" "$IMAGES" "$modules"

# go_build NAME MODULE-DIRECTORY PACKAGE [LINKER-FLAGS]: unless it is there in this version.
go_build() {
    local name=$1 module=$2 package=$3 stamp
    stamp=$BIN/.${name//\//-}-${module##*/}
    [ ! -e "$stamp" ] || [ ! -x "$BIN/$name" ] || return 0
    (cd "$module" && step "build $name" go build -trimpath -ldflags="-s -w ${4:-}" -o "$BIN/$name" "$package")
    touch "$stamp"
}

# module NAME MODULE VERSION: a module of our own that only requires it; its directory is printed.
module() {
    local directory=$modules/$1-$3
    if [ ! -f "$directory/go.sum" ]; then
        mkdir -p "$directory"
        (cd "$directory" && rm -f go.mod && go mod init "build/$1" && go get "$2@v$3") >"$directory/log" 2>&1 ||
            die "cannot fetch $2@v$3: $(tail -n1 "$directory/log")"
    fi
    printf '%s\n' "$directory"
}

# Kubernetes' module replaces its staging modules by directories; these are released under versions of their own.
kubernetes_module() {
    local directory=$modules/kubernetes-$KUBERNETES source staging=0.${KUBERNETES#1.}
    if [ ! -f "$directory/tools.go" ]; then
        mkdir -p "$directory"
        source=$(cd "$directory" && go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
        {
            printf 'module build/kubernetes\n'
            sed -n '/^go /p;/^godebug/p' "$source/go.mod"
            printf 'require k8s.io/kubernetes v%s\nreplace (\n' "$KUBERNETES"
            sed -n "s#^\t\(k8s.io/[a-z-]*\) => ./staging.*#\t\1 => \1 v$staging#p" "$source/go.mod"
            printf ')\n'
        } >"$directory/go.mod"
        cp "$source/go.sum" "$directory/go.sum"
        # Named here, the packages' own dependencies become part of the build list.
        {
            printf '//go:build tools\n\npackage tools\n\nimport (\n'
            printf '\t_ "k8s.io/kubernetes/%s"\n' cmd/kube-controller-manager cmd/kube-scheduler cmd/kubelet \
                cmd/kube-proxy test/images/agnhost
            printf ')\n'
        } >"$directory/tools.go"
    fi
    printf '%s\n' "$directory"
}

kubernetes() {
    local module version="" package
    module=$(kubernetes_module)
    # Without these kubelet and API server report a version that clients cannot compare.
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        version+=" -X $package.gitVersion=v$KUBERNETES -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES")"
        version+=" -X $package.gitTreeState=clean -X $package.gitCommit=0000000000000000000000000000000000000000"
        version+=" -X $package.buildDate=2026-01-01T00:00:00Z"
    done
    for name in kube-controller-manager kube-scheduler kubelet kube-proxy; do
        go_build "$name" "$module" "k8s.io/kubernetes/cmd/$name" "$version"
    done
    go_build agnhost "$module" k8s.io/kubernetes/test/images/agnhost -extldflags=-static
    [ "${1:-}" = suite ] || return 0
    if [ ! -x "$BIN/e2e.test" ]; then
        (cd "$module" && step "build e2e.test" go test -c -vet=off -trimpath -ldflags="-s -w $version" \
            -o "$BIN/e2e.test" k8s.io/kubernetes/test/e2e)
    fi
    go_build ginkgo "$module" github.com/onsi/ginkgo/v2/ginkgo
}

# The sandbox container's process: waits for a signal, and reaps.
pause() {
    mkdir -p "$modules/pause"
    cp "$CLUSTER_DIR/pause.go" "$modules/pause/main.go"
    [ -f "$modules/pause/go.mod" ] || (cd "$modules/pause" && go mod init build/pause 2>/dev/null)
    go_build pause "$modules/pause" .
}

binaries() {
    local directory name plugins=github.com/containernetworking/plugins v
    directory=$("$root/scripts/apiserver.sh")
    for name in etcd kube-apiserver kubectl; do ln -sf "$directory/$name" "$BIN/$name"; done
    kubernetes "${1:-}"
    directory=$(module containerd github.com/containerd/containerd/v2 "$CONTAINERD")
    v="-X github.com/containerd/containerd/v2/version.Version=v$CONTAINERD"
    for name in containerd containerd-shim-runc-v2 ctr; do
        go_build "$name" "$directory" "github.com/containerd/containerd/v2/cmd/$name" "$v"
    done
    directory=$(module plugins $plugins "$PLUGINS")
    for name in main/bridge main/loopback ipam/host-local meta/portmap; do
        go_build "cni/${name#*/}" "$directory" "$plugins/plugins/$name"
    done
    directory=$(module plugins $plugins "$PLUGINS_WITH_FLANNEL")
    go_build cni/flannel "$directory" $plugins/plugins/meta/flannel
    directory=$(module coredns github.com/coredns/coredns "$COREDNS")
    go_build coredns "$directory" github.com/coredns/coredns
    pause
}

# Debian's nginx, curl, ping and dig under the names that manifests ask for.
root_file_system() {
    local tree=$CACHE/cluster/rootfs mirror
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        awk '/^deb /{for (i = 1; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}} /^URIs:/{print $2; exit}')
    rm -rf "$tree"
    debootstrap --variant=minbase \
        --include=nginx-light,curl,iputils-ping,iproute2,bind9-dnsutils,netcat-openbsd,procps,iperf,ca-certificates \
        bookworm "$tree" "${mirror:?apt has no mirror}" >"$CACHE/cluster/debootstrap.log" 2>&1
    # What upstream's tests expect of the image's users.
    chroot "$tree" sh -c 'useradd -m -u 1000 -s /bin/sh user-defined-in-image && groupadd -g 50000 group-defined-in-image &&
        usermod -aG group-defined-in-image user-defined-in-image'
    rm -rf "${tree:?}"/var/cache/apt/* "${tree:?}"/var/lib/apt/lists/* "${tree:?}"/usr/share/{doc,man,locale,info} "${tree:?}"/dev/* "${tree:?}"/proc/*
    ln -sf /dev/stdout "$tree/var/log/nginx/access.log"
    ln -sf /dev/stderr "$tree/var/log/nginx/error.log"
    mkdir -p "$tree/uploads"
    tar -C "$tree" --numeric-owner --sort=name --mtime=@0 -cf "$IMAGES/base.rootfs" .
    rm -rf "$tree"
}

image() { # ARCHIVE NAME:TAG ARGUMENTS...
    local archive=$IMAGES/$1; shift
    [ -f "$archive" ] || "$root/scripts/oci-image.py" "$archive" "$@" >/dev/null
}

images() {
    local tests=registry.k8s.io/e2e-test-images base=$IMAGES/base.rootfs sources
    [ -f "$base" ] || step "root file system of the images" root_file_system
    sources=$(cd "$(kubernetes_module)" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images/agnhost/porter
    image pause.tar registry.k8s.io/pause:3.10.2 --entrypoint '["/pause"]' --user 65535:65535 "pause=$BIN/pause"
    image agnhost.tar $tests/agnhost:2.63.0 --entrypoint '["/agnhost"]' --cmd '["pause"]' "tar:$base" \
        "agnhost=$BIN/agnhost,link:agnhost-2=agnhost,localhost.crt=$sources/localhost.crt:644,localhost.key=$sources/localhost.key:644,coredns=$BIN/coredns"
    image nginx.tar $tests/nginx:1.15-4 --cmd '["nginx","-g","daemon off;"]' "tar:$base"
    image multitool.tar docker.io/runzhliu/network-multitool:latest --cmd '["sleep","infinity"]' "tar:$base"
    image dns.tar $tests/glibc-dns-testing:2.0.0 --cmd '["sleep","infinity"]' "tar:$base"
    local files name
    files=bin/busybox=$(command -v busybox)
    for name in $(busybox --list); do [ "$name" = busybox ] || files+=",link:bin/$name=busybox"; done
    image busybox.tar $tests/busybox:1.37.0-1 --cmd '["sh"]' "$files,tmp=,etc="
    image coredns.tar registry.k8s.io/coredns/coredns:cluster --entrypoint '["/coredns"]' \
        "coredns=$BIN/coredns,etc/nsswitch.conf=/etc/nsswitch.conf:644"
}

"$root/scripts/setup.sh" cluster
binaries "$@"
images
