# Two commands on a fresh machine: `make demo` and `make test`. Everything lives in .venv; nothing needs root but ci-deps.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: setup setup-run demo test check bench fuzz models faults ci-deps clients lock clean

setup: $(VENV)/.dev            ## what tests and development need
setup-run: $(VENV)/.run        ## what the demo runs, no more

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Hearthline needs Python 3.11 or newer: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)

# `requirements.lock` holds what runs, `requirements-dev.lock` everything; both carry hashes, so nothing unlocked can slip in.
$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@ $(VENV)/.run

demo: setup-run                ## the main job, once, on simulated machines; ends with the account
	$(BIN)/fwsim demo $(DEMO)

check: setup                   ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two at a time, file by file: values first, and beside them the faults, which tire the disk and look at no clock; then whole platforms, the
# longest first, some of which do.
test: check                    ## everything that must hold, under 12 minutes on 2 cores
	$(BIN)/pytest -n 2 --dist loadfile tests/unit tests/contract tests/architecture tests/docs tests/faults $(PYTEST)
	$(BIN)/pytest -n 2 --dist loadfile tests/e2e tests/integration $(PYTEST)

bench: setup                   ## build/bench.json: ratios against peers and bare baselines in the same run
	$(BIN)/python -m tests.benchmarks

fuzz: setup                    ## the property tests with 10,000 examples each, a quarter of an hour
	HEARTHLINE_EXAMPLES=10000 $(BIN)/pytest -n 2 --dist loadfile tests/unit $(PYTEST)

models: setup                  ## the anomaly model on SKAB: flagged intervals, F1, FAR, MAR; build/models.json
	$(BIN)/python -m tests.benchmarks.skab_figures

faults: setup                  ## every fault of the matrix and its mutants, half an hour; SEED=n plays a run again or goes on with it
	$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(FAULTS)

ci-deps: setup                 ## Debian packages for the suites that need them (root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium e2fsprogs faketime fiu-utils fonts-noto-cjk mosquitto mosquitto-clients postgresql victoria-metrics
	$(MAKE) clients

# Other people's clients, each in an environment of its own: the vendor's SDKs ask for libraries that we do not have.
clients: build/clients/linkkit/.done build/clients/node/.done  ## the vendor's device SDKs, for the tests with real clients

build/clients/linkkit/.done: tests/clients/linkkit.txt
	rm -rf build/clients/linkkit
	$(PYTHON) -m venv build/clients/linkkit
	build/clients/linkkit/bin/python -m pip --disable-pip-version-check -q install --no-build-isolation --require-hashes -r tests/clients/linkkit.txt
	touch $@

build/clients/node/.done: tests/clients/node/package.json tests/clients/node/package-lock.json
	rm -rf build/clients/node
	mkdir -p build/clients/node
	cp tests/clients/node/package.json tests/clients/node/package-lock.json build/clients/node/
	if command -v npm > /dev/null; then cd build/clients/node && npm ci --ignore-scripts --no-audit --no-fund --silent; fi
	touch $@

lock:                          ## resolve again; needs `uv` on PATH
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header -p 3.11 -q --upgrade \
	  --extra edge --extra encryption --extra inference --extra serial --extra cloud --extra sim --group build -o requirements.lock pyproject.toml
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header -p 3.11 -q \
	  --extra edge --extra encryption --extra inference --extra serial --group build -c requirements.lock -o docker/edge.lock pyproject.toml
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header -p 3.11 -q --upgrade \
	  --extra edge --extra encryption --extra inference --extra serial --extra cloud --extra sim --extra train --extra influxdb --extra postgresql --extra dev --group build -o requirements-dev.lock pyproject.toml

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
