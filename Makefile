# Every target works from a clean clone; `make help` lists them.

SHELL := /bin/bash
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# Arguments for the program that a target runs: make demo ARGS="--meters 5"
ARGS ?=
# Seconds for each fuzz target, and one target's name to run only that.
FUZZ_SECONDS ?= 60
FUZZ_TARGET ?=
# Schedules that each simulation test runs in a soak.
SOAK_SEEDS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help demo test bench fuzz soak interop model deny clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

demo: ## watch meters find their owner and deliver their first reading (ARGS="--meters 5")
	@scripts/packages.sh demo
	$(CARGO) build --release --locked --package gridseal
	$(TARGET_DIR)/release/gridseal demo $(ARGS)

test: ## everything that must pass before a change lands
	@scripts/packages.sh test
	$(CARGO) run --quiet --locked --package xtask -- ci

bench: ## measure the hot paths (ARGS="name" for some of them)
	@if compgen -G 'crates/*/benches/*.rs' > /dev/null; then \
	  $(CARGO) bench --locked --workspace --bench '*' -- $(ARGS); \
	else echo 'bench: no bench yet (crates/*/benches/*.rs)'; fi

fuzz: ## run each fuzz target for FUZZ_SECONDS (60), or only FUZZ_TARGET
	@FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_TARGET=$(FUZZ_TARGET) scripts/fuzz.sh

soak: ## run SOAK_SEEDS (1000000) schedules through each simulation test
	@if [ -d crates/sim ]; then \
	  GRIDSEAL_SEEDS=$(SOAK_SEEDS) $(CARGO) test --release --locked --package gridseal-sim -- --nocapture $(ARGS); \
	else echo 'soak: no simulation yet (crates/sim)'; fi

interop: ## let programs of others and independent ones judge (ARGS="onboarding strangers" for some)
	@scripts/packages.sh test
	$(CARGO) build --release --locked --package gridseal
	@scripts/interop.sh $(TARGET_DIR)/release/gridseal $(ARGS)

model: ## check the symbolic model of onboarding and its planted faults (MODEL_VARIANT=config for one)
	@scripts/model.sh

deny: ## licences, sources, duplicate versions and advisories (needs cargo-deny)
	$(CARGO) deny --locked check

clean: ## remove all build output
	$(CARGO) clean
	rm -rf fuzz/target fuzz/artifacts
