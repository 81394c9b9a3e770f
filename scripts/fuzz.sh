#!/usr/bin/env bash
# Fuzzes every target of fuzz/, or those named, one after the other.
#
#   scripts/fuzz.sh [TARGET…]        SECONDS_EACH (default 15) is the time for each; SEED (default random) where it begins
#
# An input that breaks a target is left in fuzz/regressions/TARGET/ : add it, and `cargo test` replays it from then on.
# libFuzzer needs a C++ compiler and the compiler's coverage pass, which every rustc has; no nightly, no sanitizer (the
# targets are safe Rust). What was reached before is kept in target/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'fuzz: %s\n' "$*" >&2; }

scripts/setup.sh build
command -v g++ >/dev/null || { say "no C++ compiler for libFuzzer: apt-get install g++"; exit 1; }

host=$(rustc -vV | sed -n 's/^host: //p')
# Named explicitly, the target gets these flags and build scripts do not, which have no fuzzer to report to.
RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-$option"
done
export RUSTFLAGS
cargo build --quiet --release --config 'profile.release.lto="off"' --config 'profile.release.strip="none"' --target "$host" --target-dir target/fuzz \
    --package oxilium-fuzz --features libfuzzer --bins

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(find fuzz/targets -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort)
broken=()
for target in "${targets[@]}"; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus" "fuzz/regressions/$target"
    seeds=()
    for directory in "fuzz/seeds/$target" "fuzz/regressions/$target"; do
        [ ! -d "$directory" ] || seeds+=("$directory")
    done
    dictionary=()
    [ ! -f "fuzz/dictionaries/$target" ] || dictionary=(-dict="fuzz/dictionaries/$target")
    log=target/fuzz/$target.log
    if "target/fuzz/$host/release/fuzz-$target" -max_total_time="${SECONDS_EACH:-15}" -seed="${SEED:-0}" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="fuzz/regressions/$target/" ${dictionary[@]+"${dictionary[@]}"} "$corpus" "${seeds[@]}" >"$log" 2>&1; then
        say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $(grep -c . < <(ls "$corpus")) of them reach something of their own"
    else
        broken+=("$target")
        grep -E 'panicked at|ERROR: libFuzzer|Test unit written' -A1 "$log" | head -n 20 >&2
        say "$target is broken; all of it is in $log"
    fi
    # Kept only if it holds an input.
    rmdir --ignore-fail-on-non-empty "fuzz/regressions/$target"
done
[ ${#broken[@]} -eq 0 ] || exit 1
