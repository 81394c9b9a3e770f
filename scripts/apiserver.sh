#!/usr/bin/env bash
# Builds what a Kubernetes API server needs (kube-apiserver, its store etcd, and kubectl) from Go modules, once, and
# prints the folder that they are in. The programs' versions and everything that they are made of are pinned in
# scripts/apiserver/*/go.mod and go.sum.
#
#   scripts/apiserver.sh            build what is missing; print the folder
#   scripts/apiserver.sh --check    build nothing; succeed if the programs are there or can be built, else say why not
#
# KUBEBUILDER_ASSETS names a folder that has all three already: then there is nothing to build.
set -euo pipefail
cd "$(dirname "$0")/apiserver"

# What the modules ask for. An older Go, from GO_SWITCHES on, fetches that one by itself.
GO_MIN=1.26
GO_SWITCHES=1.21
PROGRAMS=(etcd kube-apiserver kubectl)

say() { printf 'apiserver: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

version_of() { # version_of FOLDER MODULE, as its go.mod has it
    sed -nE "s#^(require)?[[:space:]]*$2 v([^ ]+).*#\2#p" "$1/go.mod" | head -n1
}
kubernetes=$(version_of kubernetes k8s.io/kubernetes)
etcd=$(version_of etcd go.etcd.io/etcd/server/v3)
if [ -z "$kubernetes" ] || [ -z "$etcd" ]; then die "cannot read the versions in $PWD/*/go.mod"; fi

# The same place as in e2e/src/apiserver/programs.rs.
folder="${XDG_CACHE_HOME:-$HOME/.cache}/oxilium/kubernetes-$kubernetes-etcd-$etcd"

lacking() { # lacking FOLDER: the first program that is not there
    local program
    for program in "${PROGRAMS[@]}"; do
        [ -x "$1/$program" ] || { echo "$program"; return; }
    done
}

at_least() { # at_least 1.21 1.26.8
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]
}

find_go() {
    PATH="$PATH:/usr/local/go/bin"
    command -v go >/dev/null 2>&1 ||
        die "no Go compiler: install Go $GO_MIN or later, or name a folder with ${PROGRAMS[*]} in KUBEBUILDER_ASSETS"
    local version
    version=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
    version=${version#go}
    if at_least "$GO_MIN" "$version"; then export GOTOOLCHAIN=local
    elif at_least "$GO_SWITCHES" "$version"; then export GOTOOLCHAIN=auto
    else die "Go is $version, but $GO_MIN is needed, or $GO_SWITCHES, which fetches it"
    fi
}

unfinished=
trap '[ -z "$unfinished" ] || rm -f "$unfinished"' EXIT
trap 'exit 130' INT TERM

build() { # build PROGRAM MODULE-FOLDER PACKAGE LDFLAGS
    local started=$SECONDS
    [ ! -x "$folder/$1" ] || return 0
    say "building $1"
    unfinished="$folder/.$1.$$"
    (cd "$2" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath -ldflags "-s -w $4" -o "$unfinished" "$3")
    mv "$unfinished" "$folder/$1"
    unfinished=
    say "built $1 in $((SECONDS - started)) s"
}

# Without it the programs take themselves for version 0.0.0, and do not understand each other.
kubernetes_ldflags() {
    local package minor
    minor=${kubernetes#*.}
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf -- '-X %s ' "$package.gitVersion=v$kubernetes" "$package.gitMajor=${kubernetes%%.*}" \
            "$package.gitMinor=${minor%%.*}" "$package.gitTreeState=clean"
    done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    missing=$(lacking "$KUBEBUILDER_ASSETS")
    [ -z "$missing" ] || die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $missing"
    echo "$KUBEBUILDER_ASSETS"
    exit
fi
case "${1:-}" in
    --check)
        [ -z "$(lacking "$folder")" ] || find_go
        exit ;;
    '') ;;
    *) die "usage: scripts/apiserver.sh [--check]" ;;
esac
if [ -n "$(lacking "$folder")" ]; then
    find_go
    mkdir -p "$folder"
    # Two builds at once would only get in each other's way.
    exec 9>"$folder/.lock"
    flock 9
    say "etcd $etcd, kube-apiserver and kubectl $kubernetes come from Go modules: some minutes, once"
    build etcd etcd go.etcd.io/etcd/server/v3 ""
    build kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver "$(kubernetes_ldflags)"
    build kubectl kubernetes k8s.io/kubernetes/cmd/kubectl "$(kubernetes_ldflags)"
fi
echo "$folder"
