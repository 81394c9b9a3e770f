#!/usr/bin/env bash
# Builds the image as an OCI archive, without docker: two programs that need nothing else, and the names that they go by.
#
#   scripts/image.sh [ARCHIVE [NAME:TAG]]      default: target/image/oxilium.tar docker.io/oxilium/oxilium:VERSION
#   PROFILE=dev                                cargo's profile, default release: dev is built sooner, and slower
#   LAYOUT=test                                with a layout of maps that no release has, to try upgrades with
#
# `ctr images import ARCHIVE`, `docker load --input ARCHIVE` and `kind load image-archive ARCHIVE` take it.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -nE 's/^version = "(.*)"$/\1/p' Cargo.toml | head -n1)
archive=${1:-target/image/oxilium.tar}
name=${2:-docker.io/oxilium/oxilium:$version}

say() { printf 'image: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

host=$(rustc -vV | sed -n 's/^host: //p')
# musl where its library is there, else glibc, which is linked in whole as well: what looks names up is part of it.
target=$host
if [ -d "$(rustc --print target-libdir --target "${host/gnu/musl}" 2>/dev/null)" ]; then target=${host/gnu/musl}; fi
profile=${PROFILE:-release}
variable=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS

case ${LAYOUT:-} in
'') layout=() ;;
test) layout=(--package oxilium-kernel --features oxilium-kernel/test-layout) ;;
*) die "LAYOUT=$LAYOUT; allowed: test, or unset" ;;
esac

say "building oxilium and oxilium-cni $version for $target ($profile${LAYOUT:+, $LAYOUT layout})"
env "$variable=-C target-feature=+crt-static" \
    cargo build --quiet --profile "$profile" --target "$target" --package oxilium --package oxilium-cni "${layout[@]}" --bins
built=target/$target/${profile/#dev/debug}
for program in oxilium oxilium-cni; do
    if readelf --program-headers "$built/$program" | grep -q 'INTERP'; then
        die "$program needs a loader: it is not linked statically"
    fi
done

# Tests run builds with debug assertions, nodes run this one: a key of the agent's alone must not disturb the installer.
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
mkdir "$trial/config" "$trial/bin" "$trial/conf"
printf /sys/fs/bpf >"$trial/config/bpf-root"
"$built/oxilium" cni install --config-dir "$trial/config" --bin-dir "$trial/bin" --conf-dir "$trial/conf" \
    --plugin "$built/oxilium-cni" --custom-cni-conf || die "the program does not take a configuration directory"

mkdir -p "$(dirname "$archive")"
# The plugin is a program of its own: a burst of pods starts it a hundred times.
scripts/oci-image.py "$archive" "$name" --env PATH=/usr/bin --cmd '["oxilium"]' \
    --label org.opencontainers.image.title=oxilium --label "org.opencontainers.image.version=$version" \
    "usr/bin/oxilium=$built/oxilium,usr/bin/oxilium-cni=$built/oxilium-cni,link:usr/bin/cilium=oxilium,link:usr/bin/cilium-dbg=oxilium,tmp="
