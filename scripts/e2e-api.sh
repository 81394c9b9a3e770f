#!/usr/bin/env bash
# The tests on a real API server: test targets whose names begin with api_. Says what it does and how long it took.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'e2e-api: %s\n' "$*" >&2; }

if [ "${OXILIUM_API_SERVER:-own}" = own ]; then
    if ! scripts/apiserver.sh --check; then
        say "there is no API server here (above says why)"
        exit 1
    fi
    KUBEBUILDER_ASSETS=$(scripts/apiserver.sh)
    export KUBEBUILDER_ASSETS
else
    say "on the cluster of KUBECONFIG=${KUBECONFIG:-}"
fi
export OXILIUM_REQUIRE="${OXILIUM_REQUIRE:+$OXILIUM_REQUIRE,}api-server"

started=$SECONDS
cargo build --quiet --workspace --bins
cargo test --quiet --workspace --test 'api_*' --no-run
say "built in $((SECONDS - started)) s"
started=$SECONDS
cargo test --workspace --test 'api_*' -- --nocapture
say "done in $((SECONDS - started)) s"
