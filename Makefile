# Each target that needs .venv makes it first. PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly fast check format bench golden clean

help:
	@echo "make setup   create .venv and install the tested versions (a few minutes, once)"
	@echo "make demo    the main job: two real teachers distil one student"
	@echo "make test    the CPU test suite;  make fast: without Ray and slow tests"
	@echo "make nightly the tests that take minutes each"
	@echo "make check   ruff, mypy, import-linter;  make format: let ruff repair what it can"
	@echo "make bench   the usual benchmarks (all: python -m benchmarks --help)"
	@echo "make golden  rewrite the golden numbers (read the diff)"
	@echo "make clean   remove .venv, caches and builds (runs/ stays)"

setup: $(STAMP)

# pip compiles what it installs: every process of a run imports it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tutelage needs Python 3.11 or newer, but '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1): try 'make setup PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "could not create .venv: on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@echo "installing into .venv: a few minutes"
	@DS_BUILD_OPS=0 $(BIN)/pip install -qq --disable-pip-version-check --no-input \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/tutelage assets
	$(BIN)/tutelage train configs/quickstart.yaml --overwrite

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile \
	  -m "not ray and not gpu and not nightly"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile \
	  -m "ray and not gpu and not nightly" tests/e2e

nightly: setup
	$(BIN)/python -m pytest -q -m "nightly and not gpu"

fast: setup
	$(BIN)/python -m pytest -q -m "not slow and not ray and not gpu and not nightly"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks

golden: setup
	$(BIN)/python tests/golden/rewrite.py

clean:
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find losses teachers orchestrator tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
