# The two commands to know: `make serve` and `make test`. `make` lists the rest.
PORT ?= 8000
HOST ?=
MODEL ?=
ARGS ?=
PYTHON ?=
TORCH ?=
export PYTHON TORCH

.PHONY: help setup serve test test-unit test-slow test-gpu test-neon test-pythons sanitize fuzz bench check docs clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done
	@echo '  settings: PORT= HOST= MODEL= ARGS="--flags" for serve; PYTHON= (3.10 to 3.13) and TORCH=cpu|cuda for setup'

setup: ## make .venv with pinned versions
	@scripts/setup runtime

serve: ## serve MODEL (the default model if none) on PORT
	@scripts/setup runtime
	@exec .venv/bin/octavo serve $(MODEL) --port $(PORT) $(if $(HOST),--host $(HOST)) $(ARGS)

test: ## everything that must be green: lint, types, tests, fuzz
	@scripts/setup dev
	@scripts/test

test-unit: ## the quick tests, which need no torch
	@scripts/setup dev
	@.venv/bin/python -m pytest -q tests/unit $(ARGS)

test-slow: ## long tests
	@scripts/setup dev
	@.venv/bin/python -m pytest -m slow $(ARGS)

test-gpu: ## tests that need an NVIDIA GPU
	@scripts/setup dev
	@.venv/bin/python -m pytest -m gpu $(ARGS)

test-neon: ## the native kernels' tests on ARM's NEON, by cross-compiler and emulator
	@scripts/setup dev
	@scripts/test-neon

test-pythons: ## the quick tests on every Python from 3.10 to 3.13 that is installed
	@scripts/test-pythons

sanitize: ## the native kernels' tests under AddressSanitizer, UBSan and ThreadSanitizer
	@scripts/setup dev
	@scripts/sanitize

fuzz: ## 100,000 seeds of the scheduler
	@scripts/setup dev
	@scripts/fuzz

bench: ## measure this machine; results go to bench/results
	@scripts/setup dev
	@scripts/bench

check: ## lint, types, import levels
	@scripts/setup dev
	@scripts/check

docs: ## write docs/reference from the settings
	@scripts/setup runtime
	@.venv/bin/python scripts/reference

clean: ## remove .venv and caches of tools
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
