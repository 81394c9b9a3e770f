#!/usr/bin/env bash
# Puts known mistakes into the code, one after the other, and demands that the test named for each finds it.
#
#   scripts/mutants.sh [NAME…]        default: all of mutants/*.patch
#
# A mutant is a patch with a head of three lines: `Mistake:` what it is, `Harm:` what it would lead to, `Test:` arguments
# of `cargo test` (package, and as much of names as needed). It is an error when a patch no longer applies, when a mutant
# does not compile, or when its test fails (or does not run) on the code as it is.
#
# Works on a copy of the tracked files (of the commit REF, if it is set) in target/mutants, with a build directory of its
# own: a mutant's binaries never lie where others look for ours.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$root/target/mutants/tree
# The copy is no part of the repository that it lies in: git apply would skip what is outside of it.
export GIT_CEILING_DIRECTORIES=$root/target/mutants
export CARGO_TARGET_DIR=$root/target/mutants/build
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=1
export OXILIUM_REQUIRE=${OXILIUM_REQUIRE:-all}
# What proptest finds is known here: do not record it.
export PROPTEST_FAILURE_PERSISTENCE=off

say() { printf 'mutants: %s\n' "$*" >&2; }

field() { sed -n "s/^$2: //p" "$1" | head -n1; }

# What differs from the last copy is replaced and gets the present time; the rest keeps its own, so that cargo builds what
# it must and no more.
copy_tree() {
    local file
    rm -rf "$tree.new"
    mkdir -p "$tree" "$tree.new"
    if [ -n "${REF:-}" ]; then git archive "$REF"; else git ls-files -z | tar --null --files-from=- -cf -; fi |
        tar -xmf - -C "$tree.new"
    while IFS= read -r -d '' file; do
        [ -e "$tree.new/$file" ] || rm -f "$tree/$file"
    done < <(cd "$tree" && find . -type f -print0)
    while IFS= read -r -d '' file; do
        cmp -s "$tree.new/$file" "$tree/$file" && continue
        mkdir -p "$tree/$(dirname "$file")"
        mv "$tree.new/$file" "$tree/$file"
    done < <(cd "$tree.new" && find . -type f -print0)
    rm -rf "$tree.new"
}

# Builds the tests; 0 if they compile.
build() { # build LOG TEST-ARGUMENTS…
    local log=$1
    shift
    (cd "$tree" && cargo test --quiet --no-run "${@%%--}" >"$log" 2>&1)
}

# Runs the tests. 0: all passed and there was at least one; 1: some failed; 2: none ran.
run_tests() { # run_tests LOG TEST-ARGUMENTS…
    local log=$1 status=0
    shift
    (cd "$tree" && timeout 300 cargo test "$@" >"$log" 2>&1) || status=$?
    if grep -q '^test result: FAILED' "$log" || { [ "$status" = 124 ] && grep -q '^running [1-9]' "$log"; }; then return 1; fi
    [ "$status" = 0 ] || return 2
    grep -q '^test result: ok\. [1-9]' "$log" || return 2
}

names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(find mutants -name '*.patch' -printf '%f\n' | sed 's/\.patch$//' | sort)
[ ${#names[@]} -gt 0 ] || { say "there is no mutant"; exit 1; }
copy_tree

declare -A sound=()
wrong=()
logs=$root/target/mutants
for name in "${names[@]}"; do
    patch=mutants/$name.patch
    [ -f "$patch" ] || { say "$name: there is no $patch"; wrong+=("$name"); continue; }
    read -ra test <<<"$(field "$patch" Test)"
    if [ ${#test[@]} -eq 0 ] || [ -z "$(field "$patch" Mistake)" ]; then
        say "$name: $patch has no Mistake: or no Test: line"
        wrong+=("$name")
        continue
    fi
    if [ -z "${sound[${test[*]}]:-}" ]; then
        if ! run_tests "$logs/$name.log" "${test[@]}"; then
            say "$name: cargo test ${test[*]} does not pass without the mutant; see $logs/$name.log"
            wrong+=("$name")
            continue
        fi
        sound[${test[*]}]=1
    fi
    if ! (cd "$tree" && git apply --whitespace=nowarn "$root/$patch") 2>"$logs/$name.log"; then
        say "$name: no longer applies; make it again: $(head -n1 "$logs/$name.log")"
        wrong+=("$name")
        continue
    fi
    began=$SECONDS
    if ! build "$logs/$name.log" "${test[@]}"; then
        say "$name: does not compile; see $logs/$name.log"
        wrong+=("$name")
    else
        status=0
        run_tests "$logs/$name.log" "${test[@]}" || status=$?
        case $status in
            1) say "$name: caught in $((SECONDS - began)) s by $(grep -m1 -oE '^test .* \.\.\. FAILED' "$logs/$name.log" | cut -d' ' -f2 || echo 'a test that did not end')" ;;
            *) say "$name: NOT caught by cargo test ${test[*]}: $(field "$patch" Mistake)"; wrong+=("$name") ;;
        esac
    fi
    (cd "$tree" && git apply --reverse --whitespace=nowarn "$root/$patch")
done
[ ${#wrong[@]} -eq 0 ] || { say "wrong: ${wrong[*]}"; exit 1; }
say "all ${#names[@]} were caught"
