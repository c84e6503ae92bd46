# Needs nothing but make and Python 3.11 or newer: `make demo` and `make test` build their own .venv from
# requirements.lock the first time, and again only when the lock or pyproject.toml has changed.

PYTHON ?= python3
UV_VERSION = 0.13.9

BIN = .venv/bin
READY = .venv/.ready
UV = $(BIN)/uv
PYTEST = $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo ui test test-integration test-oldest matrix test-io test-ui docs simulate fuzz bench bench-quick lint format lock install clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

demo: $(READY)  ## Run the example: reviews go out as batches, a labelled Parquet table comes back
	@$(BIN)/python -m example_project.demo

ui: $(READY)  ## Open the Dagster UI on what the demo made; Ctrl-C stops it
	@$(BIN)/python -m example_project.demo --ui

test: $(READY)  ## Run the tests
	$(PYTEST) -n auto --maxprocesses=8 -m "not integration and not ui"

test-integration: $(READY)  ## Run the tests that drive real Dagster processes; minutes
	$(PYTEST) -m integration

SEEDS ?= 10000
SECONDS ?= 60

simulate: $(READY)  ## Play SEEDS=10000 schedules of crashes and faults and count what was lost or paid twice; minutes
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS)

fuzz: $(READY)  ## Read result files that are wrong at random, for SECONDS=60
	$(BIN)/python -m tests.results.fuzz_reader --seconds $(SECONDS)

BENCH_DATA ?= .bench/data
BENCH_PEERS ?= .bench/peers

bench: $(READY)  ## Measure everything, other clients included, and write benchmarks/README.md; hours, 80 GB of disk
	$(BIN)/python -m benchmarks.peers.install $(BENCH_PEERS)
	$(BIN)/python -m benchmarks --data $(BENCH_DATA) --peers $(BENCH_PEERS)

bench-quick: $(READY)  ## See that the benchmarks work, with small sizes; minutes
	$(BIN)/python -m benchmarks --quick --results .bench/quick.json --readme .bench/quick.md

test-oldest: $(UV)  ## Run the tests with the oldest versions of everything that we say we support
	$(PYTHON) -m venv --clear .venv-oldest
	$(UV) pip install --python .venv-oldest/bin/python --resolution lowest-direct --quiet \
	  --editable '.[polars,local,ui]' --group dev
	.venv-oldest/bin/python -m pytest -n auto --maxprocesses=8 -m "not integration and not ui"

PYTHONS ?= 3.11 3.12 3.13 3.14

matrix: $(READY)  ## Run the tests with each of PYTHONS, oldest and newest versions of everything, and write README's table; an hour
	$(BIN)/python -m tests.matrix --pythons $(PYTHONS)

test-io: $(UV)  ## Run the tests with the DuckDB, Delta Lake and Iceberg IO managers, which want a Dagster of their own
	$(PYTHON) -m venv --clear .venv-io
	$(UV) pip install --python .venv-io/bin/python --quiet --editable '.[polars,duckdb,local]' --group test \
	  dagster-duckdb-pandas dagster-deltalake-pandas dagster-iceberg
	.venv-io/bin/python -m pytest -n auto --maxprocesses=8 tests/test_other_io_managers.py tests/test_io_manager.py

test-ui: $(UV) requirements.lock requirements-ui.lock  ## Click through Dagster's UI in Chromium (CHROMIUM=path; SCREENSHOTS=docs makes the pictures anew)
	$(PYTHON) -m venv --clear .venv-ui
	$(UV) pip install --python .venv-ui/bin/python --require-hashes --quiet \
	  --requirement requirements.lock --requirement requirements-ui.lock
	$(UV) pip install --python .venv-ui/bin/python --no-deps --no-build-isolation --quiet --editable .
	.venv-ui/bin/python -m pytest -m ui tests/ui

docs: $(UV)  ## Build the documentation as a site, into site/
	$(PYTHON) -m venv --clear .venv-docs
	$(UV) pip install --python .venv-docs/bin/python --quiet --editable . mkdocs-material 'mkdocstrings[python]'
	.venv-docs/bin/mkdocs build --strict --quiet

lint: $(READY)  ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Put imports and format right
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(UV)  ## Refresh both locks from pyproject.toml
	$(UV) pip compile pyproject.toml --python $(BIN)/python --upgrade --quiet \
	  --extra polars --extra local --extra ui --group dev \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file requirements.lock
	$(UV) pip compile --group browser --constraints requirements.lock --python $(BIN)/python --upgrade --quiet \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file requirements-ui.lock
	@! grep -nE '^[^#]*(://|--find-links|--(extra-)?index-url)' requirements.lock requirements-ui.lock

install: $(READY)  ## Build .venv, which the other targets do by themselves

clean:  ## Remove .venv, the demo's data and every cache
	rm -rf .venv .venv-oldest .venv-io .venv-ui .venv-docs site .demo .kill-demo .bench dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): $(UV) requirements.lock pyproject.toml
	@echo "Installing what requirements.lock names into .venv ..."
	@$(UV) pip sync --python $(BIN)/python --require-hashes --quiet requirements.lock
	@$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet --editable .
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null || { \
	  echo "Python 3.11 to 3.14 is needed, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Creating .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
