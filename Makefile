# make demo    set up, and run the main job on the bundled volume
# make test    set up for development, check, and run the tests
# make setup   set up for development only
# make check   formatting, lint, types, import contract
# make test-all  as `make test`, with the slow tests
#
# Variables: PYTHON (an interpreter, 3.11 or newer), PIP_ARGS (more arguments to pip install),
# PYTEST_ARGS (more arguments to pytest), WORKERS (test processes).

.DEFAULT_GOAL := help
.PHONY: help demo setup check format test test-all clean

BIN := .venv/bin
PYTHON ?=
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2

# One thread of arithmetic per test process: several processes share the cores.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# What is installed follows from these files; the stamps say for which state of them it was done.
.venv/ready-to-run: pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" PIP_ARGS="$(PIP_ARGS)" sh tools/setup.sh . && touch $@

.venv/ready-to-develop: pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" PIP_ARGS="$(PIP_ARGS)" sh tools/setup.sh '.[dev]' \
		&& touch .venv/ready-to-run $@

setup: .venv/ready-to-develop

demo: .venv/ready-to-run
	$(BIN)/stitchsafe demo

check: .venv/ready-to-develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/ready-to-develop
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-all: check
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "slow or not slow" --timeout 3600 $(PYTEST_ARGS)

clean:
	rm -rf .venv build dist demo-output
