# `make help` lists the targets. Everything happens in a virtual environment of this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(abspath $(BIN)):$(PATH)
SOURCES := setup.py pyproject.toml $(foreach end,pyx pxd pxi,$(wildcard src/fastserverstate/*.$(end)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-matrix lint bench load clean

# The oldest, three middle and the newest release that is supported.
STREAMLIT_RELEASES := 1.37.1 1.44.1 1.50.0 1.58.0 1.67.0
# Most of what these tests do is to wait for a server or a browser.
TEST_PROCESSES := 3

help:  ## List the targets.
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-13s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(READY): $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: $(READY)  ## Start the example app and print its address.
	@$(BIN)/python examples/demo.py

test: $(READY) lint  ## Run the linters and the whole test suite.
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

MATRIX := $(STREAMLIT_RELEASES:%=test-streamlit-%)
.PHONY: $(MATRIX)

test-matrix: $(MATRIX)  ## Run the server and browser tests on every supported Streamlit.

$(MATRIX): test-streamlit-%: .venvs/streamlit-%/bin/python $(READY)
	PYTHONPATH=src $< -m pytest tests/runtime tests/browser --numprocesses $(TEST_PROCESSES) -p no:cacheprovider

$(STREAMLIT_RELEASES:%=.venvs/streamlit-%/bin/python): .venvs/streamlit-%/bin/python:
	$(PYTHON) -m venv .venvs/streamlit-$*
	$@ -m pip install --quiet --upgrade "pip>=25.1"
	$@ -m pip install --quiet "streamlit==$*" --group test

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src
	$(BIN)/mypy

bench: $(READY)  ## Compare with a dict and with streamlit-server-state.
	$(BIN)/python -m pytest bench --benchmark-only

load: $(READY)  ## Load a real server with hundreds of sessions, beside streamlit-server-state.
	cd bench && PYTHONPATH=../tests $(abspath $(BIN))/python -m load

clean:  ## Remove what the other targets have made.
	rm -rf $(VENV) .venvs build dist src/*.egg-info src/fastserverstate/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
