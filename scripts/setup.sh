#!/usr/bin/env bash
# Finds or installs what the project needs on a Debian 12 machine, and says what it does. Idempotent; when nothing is
# missing it takes a few milliseconds and prints nothing.
#
#   scripts/setup.sh [build] [run] [lint] [kernels] [cluster]      default: build run
#
#   build    compilers for user space and for BPF, bpf-linker
#   run      what the demo, the tests and the benchmarks run: CNI plugins, nginx, curl, ping, bpftool, …
#   lint     rustfmt, clippy, cargo-deny
#   kernels  QEMU and what boots another kernel under it
#   cluster  what a Kubernetes cluster of namespaces needs beside what is built from Go modules
set -euo pipefail

RUST_MIN=1.95
LLVM=22
BPF_LINKER=0.13.0
CARGO_DENY=0.20

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }

# bpf-linker and cargo-deny are put there by cargo; a fresh machine does not have it on its path.
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else die "not root and no sudo: run as root: $*"
    fi
}

at_least() { # at_least 1.95 1.96.0
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]
}

# ---- Debian packages: collected first, installed at once.

packages=()
want() { packages+=("$@"); }

install_packages() {
    [ ${#packages[@]} -gt 0 ] || return 0
    local missing=() name state
    have dpkg-query || die "this is not a Debian system; it needs what these Debian packages hold: ${packages[*]}"
    declare -A installed=()
    while read -r state name; do
        [ "$state" = ii ] && installed[$name]=1
    done < <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${packages[@]}" 2>/dev/null)
    for name in "${packages[@]}"; do
        [ -n "${installed[$name]:-}" ] || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    say "installing Debian packages: ${missing[*]}"
    # Debian starts a daemon when it installs one, and the tests run their own copies: policy-rc.d says no.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        made=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
    fi
    local status=0
    { as_root apt-get -qq -o DPkg::Lock::Timeout=300 update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >&2
    } || status=$?
    [ -z "$made" ] || as_root rm -f "$policy"
    [ "$status" = 0 ] || die "apt-get failed; look above, correct it and run this again"
    # Nor shall they come up at the next boot only because of us.
    for name in nginx iperf3; do
        case " ${missing[*]} " in *" $name "*)
            if [ -d /run/systemd/system ]; then as_root systemctl disable --now "$name" >&2 || say "could not disable $name"; fi
        esac
    done
}

# ---- User space compiler.

rust_version() { cargo --version 2>/dev/null | cut -d' ' -f2; }

want_rust() {
    local version
    version=$(rust_version || true)
    if [ -n "$version" ] && at_least "$RUST_MIN" "$version"; then return 0; fi
    if [ -n "$version" ] && have rustup; then
        die "cargo is $version, but $RUST_MIN is needed: rustup update stable"
    fi
    say "no Rust $RUST_MIN or later: taking Debian's rustc-web"
    want rustc-web cargo-web libstd-rust-web-dev gcc libc6-dev
}

# ---- BPF compiler: the same choice as controller/kernel/build.rs makes.

nightly_has_source() {
    local sysroot
    have rustup && sysroot=$(rustup run nightly rustc --print sysroot 2>/dev/null) &&
        [ -f "$sysroot/lib/rustlib/src/rust/library/core/Cargo.toml" ]
}

want_bpf() {
    if ! nightly_has_source; then want rustc-web cargo-web libstd-rust-web-dev-bpf; fi
    # LLVM's libraries are for building bpf-linker, and the shared one is what it runs with.
    if ! have bpf-linker; then
        want "llvm-$LLVM-dev" "libpolly-$LLVM-dev" zlib1g-dev libzstd-dev g++ gcc libc6-dev
    fi
}

install_bpf_linker() {
    have bpf-linker && return 0
    say "building bpf-linker $BPF_LINKER (a minute or two)"
    env "LLVM_PREFIX=/usr/lib/llvm-$LLVM" "LLVM_SYS_${LLVM}1_PREFIX=/usr/lib/llvm-$LLVM" \
        cargo install bpf-linker --quiet --locked --version "$BPF_LINKER" \
        --no-default-features --features "llvm-$LLVM" >&2
}

install_lint_tools() {
    if have rustup && cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then :
    elif have rustup && [ "$(command -v cargo)" != /usr/bin/cargo ]; then
        say "adding rustfmt and clippy"
        rustup component add rustfmt clippy
    fi
    have cargo-deny && return 0
    say "building cargo-deny $CARGO_DENY (some minutes, once)"
    # A lint tool need not be fast itself: build it quickly.
    env CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install cargo-deny --quiet --locked --version "^$CARGO_DENY" >&2
}

mount_bpffs() {
    # Field 5 of mountinfo is the mount point; its type follows the lone dash.
    if grep -q ' /sys/fs/bpf .* - bpf ' /proc/self/mountinfo; then return 0; fi
    [ -d /sys/fs/bpf ] || die "/sys/fs/bpf is not there: this kernel has no BPF file system"
    say "mounting bpffs on /sys/fs/bpf"
    as_root mount -t bpf bpf /sys/fs/bpf
}

# What a node with a container runtime has: bridged packets pass netfilter or not, and both are tried.
load_bridge_netfilter() {
    [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || return 0
    if ! as_root modprobe br_netfilter; then
        say "NOT LOADED: br_netfilter; what is tried with bridged packets in netfilter skips itself"
    fi
}

main() {
    local groups=("$@") group
    [ ${#groups[@]} -gt 0 ] || groups=(build run)
    for group in "${groups[@]}"; do
        case $group in
            build) want_rust; want_bpf ;;
            run) want bpftool nginx curl iputils-ping iproute2 containernetworking-plugins tcpdump strace \
                iperf3 sockperf procps kmod nftables iptables ;;
            lint) want_rust
                if ! have rustup; then want rustfmt-web rust-web-clippy gcc libc6-dev; fi ;;
            kernels) want qemu-system-x86 qemu-system-common busybox-static kmod zstd lz4 xz-utils python3-minimal ;;
            cluster) want nftables iptables conntrack socat ethtool runc busybox-static debootstrap openssl procps \
                util-linux python3-minimal ;;
            *) die "no group '$group'; there are: build run lint kernels cluster" ;;
        esac
    done
    install_packages
    for group in "${groups[@]}"; do
        case $group in
            build) install_bpf_linker ;;
            run) mount_bpffs; load_bridge_netfilter ;;
            lint) install_lint_tools ;;
        esac
    done
}

main "$@"
