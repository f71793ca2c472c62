#!/usr/bin/env bash
# Format, lints, layers, documentation and dependencies; changes nothing in the tree.
set -euo pipefail

readonly EXIT_FAILED=1 EXIT_USAGE=2
readonly FETCH_LIMIT_S=60

usage() {
    cat <<'USAGE'
usage: .ci/verify.sh [--no-deny] [-h]

Runs every check, also after one has failed, and says which did.

  --no-deny  leave out the dependency checks (they need cargo-deny: see `make verify`)
  -h         this text
USAGE
}

failed=()

check() {
    local name=$1 began=$SECONDS
    shift
    if "$@"; then
        echo "verify: $name: ok ($((SECONDS - began)) s)"
    else
        echo "verify: $name: FAILED ($((SECONDS - began)) s)"
        failed+=("$name")
    fi
}

# Crates with a workspace of their own are not seen by `cargo fmt --all`.
own_workspaces() { git ls-files '*/Cargo.toml' | xargs -r grep -lx '\[workspace\]' || true; }

formatted() {
    local manifest status=0
    cargo fmt --all --check || status=1
    for manifest in $(own_workspaces); do
        cargo fmt --manifest-path "$manifest" --check || status=1
    done
    return "$status"
}

lints() {
    cargo clippy --quiet --keep-going --locked --workspace --all-targets -- -D warnings -D clippy::too_many_lines
}

layers() { cargo test --quiet --locked -p dwcp-layers; }
docs() { RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --workspace --no-deps; }

# Part of the packages of no machine we ask for; where it is there, it is asked.
shells() {
    if ! command -v shellcheck >/dev/null; then
        echo "verify: shellcheck is not installed: scripts not checked"
        return
    fi
    git ls-files '*.sh' .ci/run | xargs -r shellcheck
}

advisories() {
    if GIT_TERMINAL_PROMPT=0 timeout "$FETCH_LIMIT_S" cargo deny --locked fetch db >/dev/null 2>&1; then
        cargo deny --locked check --disable-fetch advisories
    else
        echo "verify: the advisory database cannot be reached: advisories NOT checked"
    fi
}

main() {
    local deny=yes
    case "${1:-}" in
    '') ;;
    --no-deny) deny=no ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit "$EXIT_USAGE" ;;
    esac
    cd "$(dirname "$0")/.."
    check format formatted
    check lints lints
    check layers layers
    check docs docs
    check scripts shells
    if [ "$deny" = yes ]; then
        check "licences, bans, sources" cargo deny --locked check licenses bans sources
        check advisories advisories
    fi
    [ "${#failed[@]}" = 0 ] || { echo "verify: failed: ${failed[*]}"; exit "$EXIT_FAILED"; }
    echo "verify: all good"
}

main "$@"
