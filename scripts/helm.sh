#!/usr/bin/env bash
# Builds helm, which the chart is tried with, from its Go module, once. Its version and everything that it is made of are
# pinned in scripts/helm/go.mod and go.sum.
#
#   scripts/helm.sh            build it if it is missing; print where it is
#   scripts/helm.sh --check    build nothing; succeed if it is there or can be built, else say why not
#   scripts/helm.sh ARGUMENTS  run it
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# What the module asks for. An older Go, from GO_SWITCHES on, fetches that one by itself.
GO_MIN=1.26
GO_SWITCHES=1.21

say() { printf 'helm: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

version=$(sed -nE 's#^(require)?[[:space:]]*helm.sh/helm/v4 v([^ ]+).*#\2#p' "$here/helm/go.mod" | head -n1)
[ -n "$version" ] || die "cannot read the version in $here/helm/go.mod"
# The same place as in e2e/src/helm.rs.
folder="${XDG_CACHE_HOME:-$HOME/.cache}/oxilium/helm-$version"

at_least() { # at_least 1.21 1.26.8
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]
}

find_go() {
    PATH="$PATH:/usr/local/go/bin"
    command -v go >/dev/null 2>&1 || die "no Go compiler: install Go $GO_MIN or later"
    local go
    go=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
    go=${go#go}
    if at_least "$GO_MIN" "$go"; then export GOTOOLCHAIN=local
    elif at_least "$GO_SWITCHES" "$go"; then export GOTOOLCHAIN=auto
    else die "Go is $go, but $GO_MIN is needed, or $GO_SWITCHES, which fetches it"
    fi
}

build() {
    local started=$SECONDS
    say "building helm $version: some minutes, once"
    # Beside it and renamed: it is whole or is not there.
    (cd "$here/helm" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false go build -trimpath \
        -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=v$version" \
        -o "$folder/.helm.new" helm.sh/helm/v4/cmd/helm)
    mv "$folder/.helm.new" "$folder/helm"
    say "built helm in $((SECONDS - started)) s"
}

if [ "${1:-}" = --check ]; then
    [ -x "$folder/helm" ] || find_go
    exit
fi
if [ ! -x "$folder/helm" ]; then
    find_go
    mkdir -p "$folder"
    # One builds, the others wait for it.
    exec 9>"$folder/.lock"
    flock 9
    [ -x "$folder/helm" ] || build
fi
[ $# -gt 0 ] || { printf '%s\n' "$folder/helm"; exit; }
exec "$folder/helm" "$@"
