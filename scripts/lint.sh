#!/usr/bin/env bash
# What must hold of the source itself. No root, no kernel.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf 'lint: %s\n' "$*" >&2; }
fail() { printf 'lint: %s\n' "$*" >&2; exit 1; }

step "formatting"
cargo fmt --all --check
rustfmt --check --edition 2024 bpf/programs/src/main.rs

step "lock files"
cargo metadata --locked --format-version 1 >/dev/null
(cd bpf/programs && cargo metadata --locked --format-version 1 >/dev/null)

step "clippy"
cargo clippy --quiet --workspace --all-targets -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --document-private-items

# The model is what can be proven, fuzzed and run offline: the compiler keeps that promise as long as these stay out.
step "the model's dependencies"
if found=$(cargo tree --package oxilium-model --edges normal,build --prefix none |
    grep -E '^(tokio|kube|kube-[a-z]+|k8s-openapi|aya|aya-obj|rtnetlink|netlink-[a-z-]+|nix) v'); then
    fail "oxilium-model depends on: $found. It decides and does no I/O; move that code to kernel or agent."
fi
# A burst of pods starts the CNI plugin a hundred times.
if found=$(cargo tree --package oxilium-cni --edges normal,build --prefix none |
    grep -E '^(kube|tonic|tokio|aya) v'); then
    fail "oxilium-cni depends on: $found. It is started once per pod and stays small."
fi

step "the definitions of the custom resources"
if ! cargo test --quiet --package oxilium-crds --test definitions the_files >/dev/null; then
    fail "crds/yaml is not what the types say: run make crds, and commit what it wrote"
fi

step "dependencies: licences, sources, bans"
cargo deny --log-level error check bans licenses sources
(cd bpf/programs && cargo deny --log-level error --config ../../deny.toml check bans licenses sources)
# The advisory database is fetched from the network; where that is not allowed, say so and go on.
if ! cargo deny --log-level error check advisories 2>/tmp/oxilium-advisories.$$; then
    if grep -qiE 'failed to fetch|unable to (fetch|clone)|could not (fetch|connect)|error sending request|IO error' \
        /tmp/oxilium-advisories.$$; then
        step "NOT CHECKED: known vulnerabilities, because the advisory database cannot be reached"
        rm -f /tmp/oxilium-advisories.$$
    else
        cat /tmp/oxilium-advisories.$$ >&2
        rm -f /tmp/oxilium-advisories.$$
        fail "a dependency has a known vulnerability"
    fi
else
    rm -f /tmp/oxilium-advisories.$$
fi

# What only makes sense on one person's machine, and what says that something is not finished.
step "the tree"
tracked() { git ls-files -z -- . ':!:scripts/lint.sh' ':!:*.lock' ':!:LICENSE' "$@"; }
if tracked | xargs -0 grep -nIE '(^|[^a-z.])/(work|root|home)/[a-z.]' --; then
    fail "a path of somebody's machine is in the tree (above)"
fi
if tracked ':!:*.md' | xargs -0 grep -nIE '\b(TODO|FIXME|XXX|HACK)\b|^(<<<<<<<|>>>>>>>) ' --; then
    fail "unfinished work is in the tree (above): finish it, or make the program say what it does not do"
fi
# What several test programs share is dead in some of them and not in others: there `expect` cannot be met.
if tracked '*.rs' ':!:bpf/programs' ':!:*/tests/*' | xargs -0 grep -nIE '^[^/]*#!?\[allow\(' --; then
    fail "#[allow] is in the tree (above): use #[expect(lint, reason = \"…\")]"
fi
# unsafe lives where the kernel is spoken to.
if tracked '*.rs' ':!:bpf/' ':!:controller/kernel/' | xargs -0 grep -nIE '\bunsafe (fn|impl|extern)?\s*\{?' -- | grep -vE ':\s*//'; then
    fail "unsafe outside bpf/ and controller/kernel/ (above)"
fi
step "clean"
