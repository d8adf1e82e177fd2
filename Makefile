# carril: one command each, the same here and in CI. `make help` lists them.

PYTHON ?= python3.11
VENV   ?= .venv
VLLM_VENV ?= .venv-vllm
CONFIG ?= serve_config.yaml
TESTS  ?= tests
PYTEST_ARGS ?=
UP_ARGS ?=

BIN    := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# A stamp carries the hash of what it installed: a changed lock makes a new name, so it is redone.
hash    = $(shell cat $(1) | sha256sum | cut -c1-16)
BASE_STAMP     := $(STAMPS)/base-$(call hash,requirements/base.lock pyproject.toml)
TRAINING_STAMP := $(STAMPS)/training-$(call hash,requirements/base.lock requirements/training.lock)
TRACKING_STAMP := $(STAMPS)/tracking-$(call hash,requirements/base.lock requirements/tracking.lock)
VLLM_STAMP     := $(VLLM_VENV)/.stamps/vllm-$(call hash,requirements/vllm.lock pyproject.toml)
TORCH_VERSION  := $(shell sed -n 's/^torch==//p' requirements/training.in)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help serve stop test check calibrate bench bench-peers bench-readme bench-guard lock clean install native training tracking test-system vllm test-vllm bench-vllm
.SUFFIXES:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: install native ## Set everything up, start the server, return when it is healthy
	@$(BIN)/carril up $(CONFIG) $(UP_ARGS)

stop: ## Stop the server that `make serve` started
	@if [ -x $(BIN)/carril ]; then $(BIN)/carril down; else echo "nothing is installed, so nothing runs"; fi

test: install training tracking native test-system ## Run the unit, integration and end-to-end tests
	$(BIN)/pytest -m "not benchmark" $(PYTEST_ARGS) $(TESTS)

vllm: $(VLLM_STAMP) ## Install vLLM's CPU build beside everything else, in .venv-vllm (3 GB)

test-vllm: vllm install training native ## Test the vllm engine against llama.cpp, and served beside it; about 6 minutes
	@$(VLLM_VENV)/bin/python -m cluster.native_build --install >/dev/null
	$(VLLM_VENV)/bin/pytest --vllm $(PYTEST_ARGS) tests/e2e/vllm
	$(BIN)/pytest --vllm $(PYTEST_ARGS) tests/e2e/serving/test_vllm_over_http.py

bench-vllm: vllm ## Measure vLLM's CPU build beside llama.cpp on OKLA's answers; about 5 minutes
	@$(VLLM_VENV)/bin/python -m cluster.native_build --install >/dev/null
	@$(VLLM_VENV)/bin/python -m tests.benchmarks.vllm_rates

check: install ## Format, lint, types and layers; about a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

calibrate: install native ## Fit the shipped models' calibrations anew, after a model file changed; about 5 minutes
	@$(BIN)/carril data generate --config training/configs/okla-v2.yaml --out var/data/okla-v2
	@for model in models/okla/*.gguf; do \
		$(BIN)/carril eval calibrate --gguf $$model --data var/data/okla-v2/dev.jsonl \
			--data var/data/okla-v2/natural.jsonl || exit; done

bench: install training tracking native ## Measure engine and gateway beside their peers
	$(BIN)/pytest -m benchmark -s $(PYTEST_ARGS) tests/benchmarks

bench-peers: install native # llama-server and its relatives, built from our llama.cpp, and LiteLLM; `bench` does it, too
	@$(BIN)/python -m tests.benchmarks.peers
	@$(BIN)/python -m tests.benchmarks.litellm_peer

bench-readme: install # the figures of the last run, into tests/benchmarks/README.md
	@$(BIN)/python -m tests.benchmarks.readme

bench-guard: install # exit 1 if a ratio of the last run is worse than the recorded one
	@$(BIN)/python -m tests.benchmarks.guard

lock: install ## Bring requirements/*.lock up to pyproject.toml; UPGRADE=1 takes the newest versions
	@echo "resolving base.lock (a few minutes: every hash is looked up)"
	@$(COMPILE) --generate-hashes --extra dev --extra postgres -o requirements/base.lock pyproject.toml requirements/native.in
	@echo "resolving training.lock"
	@$(COMPILE) --extra training -c requirements/base.lock -o requirements/training.lock \
		pyproject.toml requirements/training.in
	@# The pin means both builds of torch: the one with the suffix exists for CPUs only.
	@sed -i 's/^torch==\([^+ ]*\)+[a-z0-9]*/torch==\1/' requirements/training.lock
	@! grep -nE '^(nvidia|cuda|triton)' requirements/training.lock \
		|| { echo "error: training.lock asks for GPU libraries; resolve it where torch's CPU build is offered"; exit 1; }
	@echo "resolving tracking.lock"
	@$(COMPILE) --extra tracking -c requirements/base.lock -c requirements/training.lock \
		-o requirements/tracking.lock pyproject.toml
	@echo "resolving vllm.lock"
	@$(COMPILE) --no-annotate -o requirements/vllm.lock pyproject.toml requirements/native.in requirements/vllm.in
	@sed -i -E '/^(torchvision|torchaudio|torchcodec|triton)==/d; s/^torch==([^+ ]*)\+[a-z0-9]*/torch==\1/' requirements/vllm.lock

COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet $(if $(UPGRADE),--upgrade) --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

clean: ## Remove the environment and caches of tools (not var/, not compiled wheels)
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

# --- the steps behind them -------------------------------------------------------------------

install: $(BASE_STAMP)
training: $(TRAINING_STAMP)
tracking: $(TRACKING_STAMP)

$(BIN)/python $(VLLM_VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: $(PYTHON) was not found. carril needs Python 3.11 or 3.12."; \
		echo "  Debian 12: apt-get install -y python3.11 python3.11-venv"; \
		echo "  elsewhere: install it, then  make PYTHON=/path/to/python3.11 ..."; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { \
		echo "error: $(PYTHON) is `$(PYTHON) -V`; carril needs Python 3.11 or 3.12."; exit 3; }
	@echo "creating $(@:/bin/python=) with `$(PYTHON) -V`"
	@$(PYTHON) -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); \
		echo "error: no environment could be made. On Debian: apt-get install -y python3.11-venv"; exit 3; }

$(BASE_STAMP): | $(BIN)/python
	@$(BIN)/python -m cluster.install_lock requirements/base.lock
	@# Without isolation: the lock's own setuptools builds the link, and nothing is fetched.
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@$(BIN)/python -m cluster.ray_commands
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/base-* && touch $@

$(TRAINING_STAMP): $(BASE_STAMP)
	@# A CPU build, where the configured package indexes offer one, spares gigabytes.
	@$(BIN)/python -m pip install --quiet "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
		|| echo "note: no CPU build of torch $(TORCH_VERSION) on the configured indexes; taking the default one"
	@$(BIN)/python -m cluster.install_lock requirements/training.lock
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/training-* && touch $@

$(TRACKING_STAMP): $(BASE_STAMP)
	@$(BIN)/python -m cluster.install_lock requirements/tracking.lock
	@mkdir -p $(STAMPS) && rm -f $(STAMPS)/tracking-* && touch $@

# vLLM also asks for torchvision, torchaudio and torchcodec, whose builds need GPU libraries and fail
# to load without them; text needs none of them. So the lock leaves them out, and is installed as is.
$(VLLM_STAMP): | $(VLLM_VENV)/bin/python
	@$(VLLM_VENV)/bin/python -m pip install --quiet "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
		|| echo "note: no CPU build of torch $(TORCH_VERSION) on the configured indexes; taking the default one"
	@$(VLLM_VENV)/bin/python -m cluster.install_lock --no-deps requirements/vllm.lock
	@$(VLLM_VENV)/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
	@mkdir -p $(@D) && rm -f $(@D)/vllm-* && touch $@

native: $(BASE_STAMP) # decides by itself whether there is anything to do: the CPU is part of the key
	@$(BIN)/python -m cluster.native_build --install >/dev/null

test-system:
	@scripts/install_test_programs.sh
