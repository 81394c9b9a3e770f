#!/usr/bin/env bash
# Runs the tests that need a kernel on other kernels than this machine's, in QEMU guests.
#
#   scripts/test-kernels.sh [KERNEL…]        default: 6.1 (clsact only) and 6.12 (tcx and clsact)
#
# Everything is built outside: a guest is some ten times slower. FILTER (part of a test's name) narrows it; TIMEOUT is in
# seconds for each kernel. A test that would be skipped fails, but for those that need what is not in a guest (an API server,
# helm, memory cgroups, the agent with another layout); a kernel on which none ran fails, too. Without FILTER the demo is
# played at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

# Packages whose tests load programs, write maps, attach. They try both ways of attachment by themselves.
packages=(oxilium-kernel oxilium-program-tests)
# Scenarios run with the way that the agent chooses, and where that is tcx, with clsact as well. Those in which the kernel
# decides what comes of it; the others try the agent, which is the same on all kernels.
scenarios=(policy live lies services drift)

scripts/setup.sh build run kernels
kernels=("$@")
[ ${#kernels[@]} -gt 0 ] || kernels=(6.1 6.12)

die() { printf 'test-kernels: %s\n' "$*" >&2; exit 1; }

# The workspace whole, as `make test` builds it: a choice of packages has other features, and everything is built once more.
built=$(mktemp)
log=$(mktemp)
trap 'rm -f "$built" "$log"' EXIT
cargo build --workspace --bins
cargo test --workspace --no-run --message-format=json-render-diagnostics >"$built" || die "the tests do not build"

programs() { # programs package|target NAME… : the test programs of these packages, or of these names in oxilium-e2e
    python3 - "$built" "$@" <<'EOF' | grep . || die "no test was built of $*"
import json, pathlib, sys, tomllib
by, wanted = sys.argv[2], set(sys.argv[3:])
for line in open(sys.argv[1]):
    told = json.loads(line)
    if told.get("executable") and told["profile"]["test"]:
        manifest = pathlib.Path(told["manifest_path"])
        package = tomllib.loads(manifest.read_text())["package"]["name"]
        target = told["target"]["name"] if package == "oxilium-e2e" else None
        if (package if by == "package" else target) in wanted:
            print(told["executable"])
EOF
}

once=$(programs package "${packages[@]}")
both=$(programs target "${scenarios[@]}")

failed=()
for kernel in "${kernels[@]}"; do
    printf 'test-kernels: %s\n' "$kernel" >&2
    # The guest sees this machine's files; what it writes vanishes with it.
    # shellcheck disable=SC2086 # one program a word
    OXILIUM_BIN_DIR="$PWD/target/debug" \
        scripts/run-in-kernel.sh "$kernel" --timeout "${TIMEOUT:-5400}" --mem 3G -- \
        bash scripts/guest/tests "${FILTER:-}" $once -- $both | tee "$log" || failed+=("$kernel")
    ran=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    printf 'test-kernels: %s tests passed on %s\n' "$ran" "$kernel" >&2
    [ "$ran" -gt 0 ] || failed+=("$kernel")
done
[ ${#failed[@]} -eq 0 ] || die "failed on ${failed[*]}"
