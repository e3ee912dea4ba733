# Two commands matter to a newcomer: `make demo` and `make test`. Both set up all they need.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PY := .venv/bin/python
DEMO_ARGS ?=
TEST_ARGS ?=
PAYLOAD_DIR ?= dist/payload
PAYLOAD_FORM ?= musl
PAYLOAD_ARCH ?=
PAYLOAD_OPTIONS = --form $(PAYLOAD_FORM) $(if $(PAYLOAD_ARCH),--architecture $(PAYLOAD_ARCH))
WRAPPER_TESTS := $(wildcard tests/integration/test_wrapper_*.py) tests/integration/sealed tests/integration/agent

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: ## the whole chain on this machine (DEMO_ARGS=--keep leaves it running)
	@tools/prepare demo
	@$(PY) -m cloudtaser.demo $(DEMO_ARGS)

.PHONY: test
test: ## unit tests and the tests against real counterparts
	@tools/prepare test
	$(PY) -m pytest tests -m "not slow and not kernel and not cluster and not arm64" $(TEST_ARGS)

.PHONY: test-slow
test-slow: ## the suites that take longer: faults, load, kills at every step
	@tools/prepare test
	$(PY) -m pytest tests -m "slow and not kernel and not cluster and not arm64" $(TEST_ARGS)

.PHONY: test-kernel
test-kernel: ## kernel enforcement in virtual machines, under kernels of their own
	@tools/prepare kernel
	$(PY) -m pytest tests/vm -m kernel $(TEST_ARGS)

.PHONY: test-kernel-all
test-kernel-all: ## the same with everything under every kernel; writes docs/ebpf-kernels.md
	@tools/prepare kernel
	CLOUDTASER_KERNELS=all $(PY) -m pytest tests/vm -m kernel $(TEST_ARGS)
	$(PY) -m tests.vm.tables

.PHONY: cluster-up
cluster-up: ## a Kubernetes of one node on this machine, for trying things in
	@tools/prepare cluster
	@$(PY) -m tests.cluster up

.PHONY: cluster-down
cluster-down: ## end it
	@tools/prepare cluster
	@$(PY) -m tests.cluster down

.PHONY: test-cluster
test-cluster: ## tests in a Kubernetes of one node, which is compiled first; KUBECONFIG=FILE: those that any cluster will do for
	@tools/prepare cluster
ifeq ($(origin KUBECONFIG),command line)
	CLOUDTASER_TEST_KUBECONFIG=$(abspath $(KUBECONFIG)) $(PY) -m pytest tests/cluster -m "cluster and anywhere" $(TEST_ARGS)
else
	$(PY) -m pytest tests/cluster -m cluster $(TEST_ARGS)
endif

.PHONY: payload
payload: ## the wrapper's payload for containers, into PAYLOAD_DIR
	@tools/prepare payload $(PAYLOAD_ARCH)
	@images/wrapper/build $(PAYLOAD_OPTIONS) $(PAYLOAD_DIR)

.PHONY: payload-wheel
payload-wheel: ## the same as a wheel, into dist/
	@tools/prepare payload $(PAYLOAD_ARCH)
	@images/wrapper/build $(PAYLOAD_OPTIONS) --wheel dist

.PHONY: test-payload
test-payload: ## the wrapper's tests against the payload's program
	@tools/prepare test
	@images/wrapper/build $(PAYLOAD_DIR)
	CLOUDTASER_TEST_WRAPPER=$(abspath $(PAYLOAD_DIR))/wrapper $(PY) -m pytest $(WRAPPER_TESTS) -m "not slow"

.PHONY: test-arm64
test-arm64: ## the payload for arm64, built here and run by an emulator
	@tools/prepare test
	@tools/prepare payload arm64 emulated
	$(PY) -m pytest tests/integration/payload -m arm64 $(TEST_ARGS)

.PHONY: lint
lint: ## style, types and layers
	@tools/prepare test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: bench
bench: ## speed, as ratios to peers in one interleaved run; see bench/RESULTS.md
	@tools/prepare bench
	$(PY) -m bench

.PHONY: bench-ebpf
bench-ebpf: ## what the node agent costs an ordinary open(), in instructions (BENCH_ARGS=--record)
	@tools/prepare kernel
	$(PY) bench/ebpf/compare.py $(BENCH_ARGS)

.PHONY: bench-webhook
bench-webhook: ## the webhook's latency, and what it costs a real API server (BENCH_ARGS=--record)
	@tools/prepare cluster
	$(PY) bench/webhook/compare.py $(BENCH_ARGS)

.PHONY: format
format: ## let ruff lay out the code
	@tools/prepare test
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: lock
lock: ## write requirements.lock anew from pyproject.toml
	@tools/prepare demo
	$(PY) -m pip install -q uv
	.venv/bin/uv pip compile -q --universal --generate-hashes --extra dev --python-version 3.11 \
		--no-emit-index-url --no-annotate --no-header $(LOCK_ARGS) pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove what the build made
	rm -rf .venv .cache dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
