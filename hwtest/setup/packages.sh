#!/usr/bin/env bash
# Installs what a Debian or Ubuntu machine needs to build, test and demonstrate DWCP.
set -euo pipefail

readonly EXIT_USAGE=2 EXIT_LOCAL=5
readonly CARGO_DENY_VERSION=0.20.2
readonly BACKPORTS_FILE=/etc/apt/sources.list.d/dwcp-backports.sources
readonly ARCHIVE_KEY=/usr/share/keyrings/debian-archive-keyring.gpg

usage() {
    cat <<'USAGE'
usage: hwtest/setup/packages.sh [--verify] [-n] [-h]

Installs the missing system packages (as root) and checks the Rust toolchain.
With nothing missing it changes nothing and ends in well under a second.
Without root it prints the commands to run and exits 5 if anything is missing.

  --verify  also install cargo-deny for `make verify` (a few minutes, once)
  -n        print the commands, run nothing
  -h        this text
USAGE
}

die() { echo "setup: $*" >&2; exit "$EXIT_LOCAL"; }

# One line per need: the command looked for, the package that has it.
readonly NEEDS='
gcc           gcc
make          make
pkg-config    pkg-config
ip            iproute2
iperf3        iperf3
busybox       busybox-static
cpio          cpio
mke2fs        e2fsprogs
xz            xz-utils
zstd          zstd
modprobe      kmod
jq            jq
'
readonly QEMU_NEEDS='
qemu-system-x86_64  qemu-system-x86
qemu-img            qemu-utils
'

# A dynamic busybox cannot run in an initramfs that holds nothing else.
have() {
    command -v "$1" >/dev/null || return 1
    [ "$1" != busybox ] || ! LC_ALL=C ldd "$(command -v busybox)" 2>&1 | grep '=>' >/dev/null
}

missing_of() {
    local cmd pkg
    while read -r cmd pkg; do
        if [ -n "$cmd" ] && ! have "$cmd"; then printf '%s ' "$pkg"; fi
    done <<<"$1"
}

missing_files() {
    [ -e /usr/include/stdio.h ] || printf 'libc6-dev '
    [ -e /etc/ssl/certs/ca-certificates.crt ] || printf 'ca-certificates '
}

# Bookworm's own QEMU is 7.2, without switchover-ack: take the backport.
needs_backports() { grep -qsx 'VERSION_CODENAME=bookworm' /etc/os-release; }

sources_of() { apt-get indextargets --format "\$(RELEASE) \$(REPO_URI)" 'Created-By: Packages'; }

add_backports() {
    if sources_of | grep '^bookworm-backports ' >/dev/null; then return; fi
    local uri
    uri=$(sources_of | awk '$1 == "bookworm" && !uri { uri = $2 } END { print uri }')
    [ -n "$uri" ] || die "no source for bookworm is configured: add one, with bookworm-backports beside it"
    cat <<LINE
printf '%s\n' 'Types: deb' 'URIs: $uri' 'Suites: bookworm-backports' 'Components: main' 'Signed-By: $ARCHIVE_KEY' > $BACKPORTS_FILE
LINE
}

# The commands that are still to be run, one a line.
plan() {
    local base qemu apt='apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3'
    local install install_qemu
    install="DEBIAN_FRONTEND=noninteractive $apt install -y --no-install-recommends"
    install_qemu=$install
    base="$(missing_of "$NEEDS")$(missing_files)"
    qemu=$(missing_of "$QEMU_NEEDS")
    [ -n "$base$qemu" ] || return 0
    command -v apt-get >/dev/null || die "no apt-get here: install these by hand: $base$qemu"
    if [ -n "$qemu" ] && needs_backports; then
        add_backports
        install_qemu="$install -t bookworm-backports"
    fi
    echo "$apt update"
    [ -z "$base" ] || echo "$install ${base% }"
    [ -z "$qemu" ] || echo "$install_qemu ${qemu% }"
}

check_rust() {
    if ! command -v cargo >/dev/null; then
        if apt-cache show rustup >/dev/null 2>&1; then
            die "no cargo: run 'apt-get install rustup' as root, then 'rustup toolchain install' here"
        fi
        die "no cargo: install rustup (this release has no package of it), then run 'rustup toolchain install' here"
    fi
    cargo --version >/dev/null 2>&1 ||
        die "the toolchain of rust-toolchain.toml is missing: run 'rustup toolchain install' here"
}

install_cargo_deny() {
    if command -v cargo-deny >/dev/null; then return; fi
    echo "setup: building cargo-deny $CARGO_DENY_VERSION, once (a few minutes)"
    cargo install --locked --quiet --version "$CARGO_DENY_VERSION" cargo-deny
}

main() {
    local dry=no verify=no commands line
    while [ $# -gt 0 ]; do
        case "$1" in
        --verify) verify=yes ;;
        -n) dry=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit "$EXIT_USAGE" ;;
        esac
        shift
    done
    cd "$(dirname "$0")/../.."
    PATH="$PATH:/usr/sbin:/sbin"
    commands=$(plan)
    if [ -n "$commands" ] && { [ "$dry" = yes ] || [ "$(id -u)" != 0 ]; }; then
        printf 'setup: packages are missing. As root, run:\n%s\n' "$commands" >&2
        exit "$EXIT_LOCAL"
    fi
    [ -z "$commands" ] || while read -r line; do
        echo "setup: $line"
        bash -c "$line" </dev/null || die "that command failed: mend what it says and run this again"
    done <<<"$commands"
    check_rust
    [ "$verify" = no ] || install_cargo_deny
}

main "$@"
