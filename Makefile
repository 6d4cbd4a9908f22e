# make play    walk through the shipped world       (ARGS="--help" shows the options)
# make test    every check and test: what CI runs
# make check   style, types and the order of the layers, without the other tests
# make format  let ruff rewrite the files
# Each makes .venv and installs what is missing. PYTHON names the interpreter to make it with.

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
BIN := .venv/bin

# One thread a process: the tests run in up to four processes, which would otherwise fight over the cores.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help play test check format
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile | head -5

play: .venv/.installed
	@$(BIN)/python play.py $(ARGS)

test: check
	$(THREADS) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(THREADS) $(BIN)/python -m pytest -q tests/test_layers.py

format: .venv/.installed-dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# torch goes first and alone, so that no other requirement can pull another build of it.
.venv/.torch: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; name one that is: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv package (on Debian: python3-venv)" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install "$$(sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"
	@touch $@

.venv/.installed: .venv/.torch
	$(BIN)/python -m pip install -q -e .
	@touch $@

.venv/.installed-dev: .venv/.torch
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch .venv/.installed $@
