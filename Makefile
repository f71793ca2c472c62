# `make help` lists the targets. Each is one call of a script or a binary.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
BENCH := $(TARGET)/release/dwcp-bench
.DEFAULT_GOAL := help
.PHONY: setup demo test test-long verify fix bench hwtest clean help release

setup: ## install what is missing on this machine (as root; else say what to run)
	@hwtest/setup/packages.sh

release: setup
	@cargo build --locked --release -p dwcp-engine -p dwcp-bench

demo: release ## boot a Linux guest and move it live between two hosts (ARGS=...)
	@$(BENCH) demo $(ARGS)

test: setup ## every suite, each timed; bounded to 55 minutes (SUITES="unit lint" for some)
	@.ci/suites.sh $(SUITES)

test-long: setup ## the same with more seeds, more cuts and a 64 GiB guest
	@.ci/suites.sh --long $(SUITES)

verify: ## format, lints, layers, docs, dependencies; changes nothing in the tree
	@hwtest/setup/packages.sh --verify
	@.ci/verify.sh

fix: ## format, and apply what the lints can mend
	@cargo fmt --all
	@cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: release ## the real benchmarks; results go to bench/record (ARGS=...)
	@$(BENCH) all $(ARGS)

hwtest: setup ## only the tests with real guests
	@.ci/suites.sh guests

clean: ## remove everything built or cached here
	@cargo clean
	@rm -rf .cache

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
