#!/usr/bin/env bash
# Runs the tests that touch the kernel under other kernels, in QEMU guests that boot this machine's file system.
#
#   scripts/test-kernels.sh [KERNEL…]        default: 6.1 (clsact) and 6.12 (tcx)
#
# FILTER (a test name's part) narrows it; TIMEOUT is in seconds for each kernel. Without KVM a guest is some ten times
# slower than the host: everything is built outside.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build run kernels
kernels=("$@")
[ ${#kernels[@]} -gt 0 ] || kernels=(6.1 6.12)

cargo build --workspace --bins
mapfile -t tests < <(cargo test --no-run --package oxilium-kernel --package oxilium-e2e 2>&1 |
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
[ ${#tests[@]} -gt 0 ] || { echo "test-kernels: no test was built" >&2; exit 1; }

failed=()
for kernel in "${kernels[@]}"; do
    echo "== $kernel" >&2
    # The guest sees this directory and the rest of the root read-only; what it writes elsewhere vanishes with it.
    if ! scripts/run-in-kernel.sh "$kernel" --timeout "${TIMEOUT:-900}" --mem 3G -- \
        env OXILIUM_REQUIRE=all OXILIUM_BIN_DIR="$PWD/target/debug" RUST_BACKTRACE=0 \
        bash -c 'uname -r; status=0; for t in "$@"; do echo "-- ${t##*/}"; "$t" --test-threads=2 ${FILTER:+"$FILTER"} || status=1; done; exit $status' \
        guest "${tests[@]}"; then
        failed+=("$kernel")
    fi
done
[ ${#failed[@]} -eq 0 ] || { echo "test-kernels: failed on ${failed[*]}" >&2; exit 1; }
echo "test-kernels: passed on ${kernels[*]}" >&2
