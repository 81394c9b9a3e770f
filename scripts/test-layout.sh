#!/usr/bin/env bash
# Builds the agent with a layout of maps that no release has, as `oxilium-test-layout` beside the usual one: for the tests
# of upgrades (e2e/tests/upgrade.rs).
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
built=${CARGO_TARGET_DIR:-target}/debug

# As the workspace whole: a choice of packages has other features, and what it depends on would be built once more.
"$CARGO" build --quiet --workspace --features oxilium-kernel/test-layout --bin oxilium
install -m 755 "$built/oxilium" "$built/oxilium-test-layout"
# The usual one takes its place again; nothing is compiled for that.
"$CARGO" build --quiet --workspace --bin oxilium
