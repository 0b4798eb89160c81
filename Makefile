# `make help` lists the targets. Everything happens in a virtual environment of this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
export PATH := $(abspath $(BIN)):$(PATH)
SOURCES := setup.py pyproject.toml $(foreach end,pyx pxd pxi h,$(wildcard src/fastserverstate/*.$(end)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-cluster test test-faults test-delays bench-cluster test-matrix test-ft test-asan test-tsan lint bench bench-check bench-ft load sdist wheels clean

# The oldest, three middle and the newest release that is supported.
STREAMLIT_RELEASES := 1.37.1 1.44.1 1.50.0 1.58.0 1.67.0
# Most of what these tests do is to wait for a server or a browser.
PARALLEL := --numprocesses 3 --dist worksteal

help:  ## List the targets.
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-13s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed, and $(PYTHON) is %s.%s. Use: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(INSTALLED): $(BIN)/python $(SOURCES)
	@echo "Installing fastserverstate into $(VENV), which compiles its core. That takes a minute."
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(READY): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

demo: $(INSTALLED)  ## Start the example app and print its address.
	@$(BIN)/python examples/demo.py

demo-cluster: $(READY)  ## Start an engine and two servers of the example app, and print their addresses.
	@$(BIN)/python examples/demo_cluster.py

test: $(READY) lint  ## Run the linters and the whole test suite.
	$(BIN)/python -m pytest $(PARALLEL)

test-faults: $(READY)  ## Kill engines, cut connections, lose replies and stop processes hundreds of times.
	FASTSERVERSTATE_FAULTS=long PYTHONPATH=tests $(BIN)/python -m pytest -p harness.faults tests/cluster \
		tests/browser/test_cluster.py --timeout 3600 -o faulthandler_timeout=3000

# Thousands of sessions, or hundreds of locks, one after the other, would take too long.
test-delays: $(READY)  ## Run the server and browser tests with threads and messages that are held up at random.
	PYTHONPATH=$(abspath tests/delays) $(BIN)/python -m pytest tests/cluster tests/runtime tests/browser $(PARALLEL) \
		-k "not two_thousand_sessions and not paced_collection and not read_modify_write"

MATRIX := $(STREAMLIT_RELEASES:%=test-streamlit-%)
.PHONY: $(MATRIX)

test-matrix: $(MATRIX)  ## Run the server and browser tests on every supported Streamlit.

$(MATRIX): test-streamlit-%: .venvs/streamlit-%/bin/python $(READY)
	PYTHONPATH=src $< -m pytest tests/runtime tests/browser $(PARALLEL) -p no:cacheprovider

$(STREAMLIT_RELEASES:%=.venvs/streamlit-%/bin/python): .venvs/streamlit-%/bin/python:
	$(PYTHON) -m venv .venvs/streamlit-$*
	$@ -m pip install --quiet --upgrade "pip>=25.1"
	$@ -m pip install --quiet "streamlit==$*" "xxhash>=3.6" --group test

# Builds that look for races and for errors with memory. Each has an environment of its own; no other target needs them.
FREE_THREADED := .venvs/free-threaded
ADDRESS := .venvs/address-undefined
THREAD := .venvs/thread
STRESS_SECONDS ?= 10
STRESS := FASTSERVERSTATE_STRESS_SECONDS=$(STRESS_SECONDS)
UNIT_TOOLS := "attrs>=23.1" "hypothesis>=6.100" "pytest>=8.3" "pytest-rerunfailures>=16.3" "pytest-timeout>=2.3" "pytest-xdist>=3.6" "xxhash>=3.6"
BUILD_TOOLS := "setuptools>=77" "Cython>=3.1,<4"
INSTALL := pip install --quiet --no-deps --no-build-isolation --force-reinstall

test-ft: $(FREE_THREADED)/.ready  ## Run the unit tests, and minutes of stress, without the GIL.
	$(FREE_THREADED)/bin/python -m $(INSTALL) .
	$(FREE_THREADED)/bin/python -c "import fastserverstate, sys; sys.exit(sys._is_gil_enabled() and 'The GIL is on.')"
	$(STRESS) $(FREE_THREADED)/bin/python -m pytest tests/unit tests/stress

bench-ft: $(FREE_THREADED)/.ready  ## Measure how reads and writes scale with threads, without the GIL.
	$(FREE_THREADED)/bin/python -m $(INSTALL) .
	$(FREE_THREADED)/bin/python bench/scaling.py

# Built here unless one is named. The newest releases of some packages have no wheel for it; older ones have.
FREE_THREADED_PYTHON ?= "$$(tools/build_python.sh free-threaded)"

$(FREE_THREADED)/.ready: tools/build_python.sh
	$(FREE_THREADED_PYTHON) -m venv $(FREE_THREADED)
	$(FREE_THREADED)/bin/python -m pip install --quiet --only-binary=:all: $(UNIT_TOOLS) $(BUILD_TOOLS) streamlit
	@touch $@

# The sanitizer has to be there before Python is, and the C++ library before the sanitizer asks for it. With malloc it
# sees every object. Leaks are not looked for: at its end Python leaves much behind (tests/unit/test_lifetime.py looks).
# Capturing only what Python prints leaves what the sanitizer prints, which then ends the process, on the screen.
LIBRARIES = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libstdc++.so.6)
WATCHED = LD_PRELOAD="$(LIBRARIES)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

# Memory that was freed is kept from being used again, so it does not stay flat; objects and frames on the stack grow.
test-asan: $(ADDRESS)/.ready  ## Run the unit tests and the stress with AddressSanitizer and UndefinedBehaviorSanitizer.
	FASTSERVERSTATE_SANITIZE=address,undefined $(ADDRESS)/bin/python -m $(INSTALL) .
	$(STRESS) $(WATCHED) $(ADDRESS)/bin/python -m pytest tests/unit tests/stress --ignore tests/unit/test_memory.py \
		--capture=sys -k "not memory_stays_flat and not small_thread"

$(ADDRESS)/.ready:
	$(PYTHON) -m venv $(ADDRESS)
	$(ADDRESS)/bin/python -m pip install --quiet $(UNIT_TOOLS) $(BUILD_TOOLS) streamlit
	@touch $@

# The sanitized interpreter is slow, so the other one, of the same version, installs for it.
PACKAGES := $(THREAD)/lib/python3.13t/site-packages
SUPPRESSIONS := build/thread/suppressions.txt

test-tsan: $(THREAD)/.ready  ## Run the stress with ThreadSanitizer, on an interpreter that was built with it.
	FASTSERVERSTATE_SANITIZE=thread $(FREE_THREADED)/bin/python -m $(INSTALL) --upgrade --target $(PACKAGES) .
	cat "$$(tools/build_python.sh thread-sanitizer | xargs dirname)/../suppressions_free_threading.txt" \
		tools/tsan_suppressions.txt >$(SUPPRESSIONS)
	$(STRESS) TSAN_OPTIONS="suppressions=$(abspath $(SUPPRESSIONS)) history_size=7 die_after_fork=0" \
		$(THREAD)/bin/python -m pytest tests/stress --capture=sys

$(THREAD)/.ready: $(FREE_THREADED)/.ready tools/build_python.sh
	"$$(tools/build_python.sh thread-sanitizer)" -m venv --without-pip $(THREAD)
	$(FREE_THREADED)/bin/python -m pip install --quiet --upgrade --target $(PACKAGES) --only-binary=:all: $(UNIT_TOOLS)
	@touch $@

lint: $(READY)  ## Check style, types and workflows.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/zizmor --offline --persona pedantic --quiet .
	$(BIN)/actionlint
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

# There is a folder of this name.
.PHONY: docs pictures

docs: $(READY)  ## Build the documentation into build/docs.
	@$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet --fresh-env --doctree-dir build/doctrees docs build/docs
	@echo "Built: $(abspath build/docs/index.html)"

pictures: $(READY)  ## Take the pictures of the documentation anew, from apps that run.
	PYTHONPATH=tests $(BIN)/python tools/pictures.py

bench: $(READY)  ## Compare with a dict and with streamlit-server-state.
	$(BIN)/python -m pytest bench --benchmark-only
	$(BIN)/python bench/instructions.py

bench-check: $(READY)  ## Compare what the operations take with the counts in bench/instructions.json.
	$(BIN)/python bench/instructions.py --check

bench-cluster: $(READY)  ## Measure what sharing the state among servers costs, beside asking the engine every time.
	PYTHONPATH=tests:bench $(BIN)/python bench/cluster

load: $(READY)  ## Load a real server with hundreds of sessions, beside streamlit-server-state.
	cd bench && PYTHONPATH=../tests $(abspath $(BIN))/python -m load

sdist: $(READY)  ## Build the sdist, the same byte for byte wherever it is built, into dist/.
	$(BIN)/python tools/wheels.py --sdist

wheels: $(READY)  ## Build and test the sdist and a wheel for each CPython of this machine, into dist/.
	$(BIN)/python tools/wheels.py

clean:  ## Remove what the other targets have made.
	rm -rf $(VENV) .venvs build dist src/*.egg-info src/fastserverstate/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
