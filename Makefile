# `make help` lists the targets. Everything happens in a virtual environment of this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(abspath $(BIN)):$(PATH)
SOURCES := setup.py pyproject.toml $(wildcard src/fastserverstate/*.pyx src/fastserverstate/*.pxd)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:  ## List the targets.
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(READY): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY)  ## Start the example app and print its address.
	@$(BIN)/python examples/demo.py

test: $(READY) lint  ## Run the linters and the whole test suite.
	$(BIN)/python -m pytest

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src
	$(BIN)/mypy

bench: $(READY)  ## Compare with a dict and with streamlit-server-state.
	$(BIN)/python -m pytest bench --benchmark-only

clean:  ## Remove what the other targets have made.
	rm -rf $(VENV) .venvs build dist src/*.egg-info src/fastserverstate/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
