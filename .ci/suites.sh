#!/usr/bin/env bash
# Builds, runs the test suites one after the other, and says where the time went.
set -euo pipefail

readonly EXIT_FAILED=1 EXIT_USAGE=2
readonly BUDGET_S=$((55 * 60)) LONG_BUDGET_S=$((6 * 60 * 60))
readonly ALL_SUITES=(build unit simulation guests bench lint)
readonly TAIL_LINES=60

usage() {
    cat <<USAGE
usage: .ci/suites.sh [--long] [-h] [suite...]

Suites, in this order: ${ALL_SUITES[*]}. Without names: all of them. The build always runs.
Fails on any failed test, and when all of it takes more than $((BUDGET_S / 60)) minutes.
Full output of each suite: <target>/suites/<suite>.log.

  --long  the long forms (DWCP_TEST_LONG=1), bounded to $((LONG_BUDGET_S / 3600)) hours
  -h      this text
USAGE
}

target=${CARGO_TARGET_DIR:-$PWD/target}
logs='' log='' child='' budget_s=$BUDGET_S
passed=0 failed=0 skipped=0
broken=() shares=() skips=()

# A test process, and whatever it started, goes when we go.
stop() { [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; exit 130; }

# Runs a command with the rest of the budget as its limit; its output goes to the suite's log.
bounded() {
    local left=$((budget_s - SECONDS)) status=0
    [ "$left" -gt 0 ] || { echo "no time left" >>"$log"; return 1; }
    timeout --kill-after=10 "$left" "$@" >>"$log" 2>&1 </dev/null &
    child=$!
    wait "$child" || status=$?
    child=
    return "$status"
}

# Runs a command that is no test; shows the end of its output if it fails.
step() {
    if bounded "$@"; then return; fi
    tail -n "$TAIL_LINES" "$log" | sed 's/^/  | /'
    return 1
}

# Counts what one run, ended with this status, printed: "passed failed", then a line for each skipped
# test (`SKIP: reason` in its captured output, `SKIP: test: reason` past the capture). A run without
# results is itself one test; one that died has one more failure.
tally() {
    awk -v status="$1" '
        /^test result: / { results++; passed += $4; failed += $6 }
        /^---- .* stdout ----$/ { test = $2 ": " }
        /^(successes|failures):$/ { test = "" }
        /^(test .* \.\.\. )?SKIP: / {
            sub(/^.*SKIP: /, "")
            if (!seen[test ? test : $0]++) reasons[++skips] = test $0
        }
        END {
            if (!results) passed = status == 0
            if (status != 0 && !failed) failed = 1
            print (passed > skips ? passed - skips : 0), failed + 0
            for (i = 1; i <= skips; i++) print reasons[i]
        }'
}

# Runs one test program, or any other command that prints test results, and reports it in a line.
tests() {
    local name=$1 began=$SECONDS status=0 from ok bad lines=()
    shift
    from=$(wc -c <"$log")
    echo "==== $name" >>"$log"
    bounded "$@" || status=$?
    mapfile -t lines < <(tail -c "+$((from + 1))" "$log" | tally "$status")
    read -r ok bad <<<"${lines[0]}"
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + ${#lines[@]} - 1))
    skips+=("${lines[@]:1}")
    if [ "$ok $bad ${#lines[@]}" = "0 0 1" ]; then return; fi
    printf '  %-44s %5d passed %3d failed %3d skipped %5d s\n' \
        "$name" "$ok" "$bad" $((${#lines[@]} - 1)) $((SECONDS - began))
    [ "$bad" != 0 ] || return 0
    tail -c "+$((from + 1))" "$log" | tail -n "$TAIL_LINES" | sed 's/^/  | /'
    return 1
}

# The built test programs whose crate's folder matches (or, with -v, does not): folder, name, program.
programs() {
    jq -r --arg root "$PWD/" 'select(.reason == "compiler-artifact" and .profile.test and .executable)
        | [(.manifest_path | ltrimstr($root) | rtrimstr("/Cargo.toml")), .target.name, .executable]
        | @tsv' "$logs/artifacts.json" | sort | grep -E "$@" || true
}

# Runs the programs that `programs` names, each in its crate's folder as cargo does.
test_programs() {
    local room name program status=0 before=$((passed + failed + skipped))
    while IFS=$'\t' read -r room name program; do
        tests "$room $name" env -C "$room" CARGO_MANIFEST_DIR="$PWD/$room" "$program" --show-output ||
            status=1
    done < <(programs "$@")
    [ "$((passed + failed + skipped))" -gt "$before" ] || { echo "  no test ran"; return 1; }
    return "$status"
}

suite_build() {
    step cargo build --locked --release -p dwcp-engine -p dwcp-bench || return 1
    step cargo test --locked --workspace --no-run --message-format=json-render-diagnostics || return 1
    grep '^{' "$log" >"$logs/artifacts.json"
}

readonly NOT_UNIT=$'^(dataplane/sim|dataplane/engine|hwtest)\t'
suite_unit() {
    local status=0
    test_programs -v "$NOT_UNIT" || status=1
    tests "examples in the documentation" \
        cargo test --locked --workspace --doc --quiet -- --show-output || status=1
    return "$status"
}

suite_simulation() { test_programs $'^dataplane/sim\t'; }

suite_guests() { test_programs $'^(dataplane/engine|hwtest)\t'; }

suite_bench() { tests "every benchmark at its tiny size" "$target/release/dwcp-bench" tiny; }

suite_lint() { step .ci/verify.sh --no-deny; }

run_suite() {
    local suite=$1 began=$SECONDS
    log=$logs/$suite.log
    : >"$log"
    echo "$suite"
    if ! "suite_$suite"; then
        broken+=("$suite")
        echo "  FAILED: see $log"
    fi
    shares+=("$suite $((SECONDS - began))")
}

report() {
    local share reason
    echo
    for reason in "${skips[@]}"; do echo "SKIP $reason"; done
    for share in "${shares[@]}"; do
        printf '%-12s %5d s %3d %%\n' "${share% *}" "${share#* }" $((100 * ${share#* } / (SECONDS + 1)))
    done
    echo "total $SECONDS s of $budget_s s"
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$SECONDS" -le "$budget_s" ] || broken+=("time: over $((budget_s / 60)) minutes")
    [ "${#broken[@]}" = 0 ] || { echo "FAILED: ${broken[*]}"; exit "$EXIT_FAILED"; }
}

main() {
    local suite suites=()
    while [ $# -gt 0 ]; do
        case "$1" in
        --long) export DWCP_TEST_LONG=1; budget_s=$LONG_BUDGET_S ;;
        -h | --help) usage; exit 0 ;;
        *) [[ " ${ALL_SUITES[*]} " == *" $1 "* ]] || { usage >&2; exit "$EXIT_USAGE"; }; suites+=("$1") ;;
        esac
        shift
    done
    [ "${#suites[@]}" -gt 0 ] || suites=("${ALL_SUITES[@]}")
    [ "${suites[0]}" = build ] || suites=(build "${suites[@]}")
    logs=$target/suites
    mkdir -p "$logs"
    trap stop INT TERM
    for suite in "${suites[@]}"; do
        run_suite "$suite"
        [ "${broken[*]-}" != build ] || break
    done
    report
}

cd "$(dirname "$0")/.."
main "$@"
