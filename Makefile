# `make help` lists the targets. They use virtual environments in this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
export PATH := $(abspath $(BIN)):$(PATH)
SOURCES := setup.py pyproject.toml $(foreach end,pyx pxd pxi h,$(wildcard src/fastserverstate/*.$(end)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-cluster check test coverage test-faults test-crashes test-delays bench-cluster test-matrix test-ft test-asan test-tsan lint bench bench-check bench-durable bench-ft load sdist wheels clean

# The oldest and newest supported releases, and three in between.
STREAMLIT_RELEASES := 1.37.1 1.44.1 1.50.0 1.58.0 1.67.0
# The tests spend most of their time waiting for servers and browsers.
PARALLEL := --numprocesses 3 --dist worksteal

help:  ## List the targets.
	@awk -F ':.*##' '/^[a-z-]+:.*##/ { printf "  make %-13s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is required, but $(PYTHON) is %s.%s. Use: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(INSTALLED): $(BIN)/python $(SOURCES)
	@echo "Installing fastserverstate into $(VENV) and compiling its core. This takes a minute."
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(READY): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

demo: $(INSTALLED)  ## Start the example app and print its URL.
	@$(BIN)/python examples/demo.py

demo-cluster: $(READY)  ## Start Redis and two servers of the example app, and print their URLs.
	@$(BIN)/python examples/demo_cluster.py

# Unit tests that take long: memory, exits of processes, interpreters, models, millions of keys, thousands of sessions.
SLOW := memory lifetime ends subinterpreter model ownership_model live_model live_leaks change recursion_limit sizes \
	expiry expiry_model sessions

check: $(READY) lint  ## Run the linters and most unit tests, in less than a minute.
	$(BIN)/python -m pytest tests/unit $(SLOW:%=--ignore tests/unit/test_%.py) --numprocesses 2 --dist worksteal --quiet

test: $(READY) lint  ## Run the linters and the whole test suite.
	$(BIN)/python -m pytest $(PARALLEL)

test-faults: $(READY)  ## Kill Redis servers, cut connections, lose replies and stop processes hundreds of times.
	FASTSERVERSTATE_FAULTS=long PYTHONPATH=tests $(BIN)/python -m pytest -p harness.faults tests/cluster \
		tests/unit/test_codec.py tests/browser/test_cluster.py --timeout 3600 -o faulthandler_timeout=3000

test-crashes: $(READY)  ## Kill processes that store their state 300 times, and compare it with what they reported.
	FASTSERVERSTATE_FAULTS=long $(BIN)/python -m pytest tests/durable/test_crashes.py $(PARALLEL) -rP

# Thousands of sessions, or hundreds of runs or locks in sequence, would take too long. Fast replies are delayed.
test-delays: $(READY)  ## Run the server and browser tests with random delays of threads and messages.
	PYTHONPATH=$(abspath tests/delays) $(BIN)/python -m pytest tests/cluster tests/runtime tests/browser $(PARALLEL) \
		-k "not two_thousand_sessions and not paced_collection and not read_modify_write and not left_out_objects \
		and not big_old_objects and not fast_replies and not finalizers_in_all_threads"

# What `make test-matrix STREAMLIT_RELEASES="pre-release nightly"` installs.
pre-release := "streamlit>=1.37.dev0"
nightly := streamlit-nightly
# Streamlit 1.58 does not serve images with newer releases of Starlette.
1.58.0 := "streamlit==1.58.0" "starlette<1"
MATRIX := $(STREAMLIT_RELEASES:%=test-streamlit-%)
.PHONY: $(MATRIX)

test-matrix: $(MATRIX)  ## Run the server and browser tests on every supported Streamlit release.

$(MATRIX): test-streamlit-%: .venvs/streamlit-%/bin/python $(READY)
	PYTHONPATH=src $< -m pytest tests/runtime tests/browser $(PARALLEL) -p no:cacheprovider

$(STREAMLIT_RELEASES:%=.venvs/streamlit-%/bin/python): .venvs/streamlit-%/bin/python:
	$(PYTHON) -m venv .venvs/streamlit-$*
	$@ -m pip install --quiet --upgrade "pip>=25.1"
	$@ -m pip install --quiet $(or $($*),"streamlit==$*") "msgpack>=1.1" "xxhash>=3.6" --group test

# Builds that detect races and memory errors. Each has a virtual environment of its own, which no other target needs.
FREE_THREADED := .venvs/free-threaded
ADDRESS := .venvs/address-undefined
THREAD := .venvs/thread
STRESS_SECONDS ?= 10
STRESS := FASTSERVERSTATE_STRESS_SECONDS=$(STRESS_SECONDS)
UNIT_TOOLS := "attrs>=23.1" "hypothesis>=6.100" "msgpack>=1.1" "pytest>=8.3" "pytest-rerunfailures>=16.3" "pytest-timeout>=2.3" "pytest-xdist>=3.6" "xxhash>=3.6"
BUILD_TOOLS := "setuptools>=77" "Cython>=3.1,<4"
INSTALL := pip install --quiet --no-deps --no-build-isolation --force-reinstall

test-ft: $(FREE_THREADED)/.ready  ## Run the unit and stress tests without the GIL.
	$(FREE_THREADED)/bin/python -m $(INSTALL) .
	$(FREE_THREADED)/bin/python -c "import fastserverstate, sys; sys.exit(sys._is_gil_enabled() and 'The GIL is on.')"
	$(STRESS) $(FREE_THREADED)/bin/python -m pytest tests/unit tests/stress

bench-ft: $(FREE_THREADED)/.ready  ## Measure how reads and writes scale with threads without the GIL.
	$(FREE_THREADED)/bin/python -m $(INSTALL) .
	$(FREE_THREADED)/bin/python bench/scaling.py

# No wheel of msgpack is for the free-threaded build of 3.13.
WHEELS := --only-binary=:all: --no-binary=msgpack
# Built here unless you set it. Some packages have wheels for it only in older releases.
FREE_THREADED_PYTHON ?= "$$(tools/build_python.sh free-threaded)"

$(FREE_THREADED)/.ready: tools/build_python.sh
	$(FREE_THREADED_PYTHON) -m venv $(FREE_THREADED)
	$(FREE_THREADED)/bin/python -m pip install --quiet $(WHEELS) $(UNIT_TOOLS) $(BUILD_TOOLS) streamlit
	@touch $@

# The sanitizer must be loaded before Python, and the C++ library before the sanitizer uses it. With malloc it sees every
# object. Leak detection is off, because Python frees little at exit; tests/unit/test_lifetime.py detects leaks.
# pytest captures only the output of Python (--capture=sys), so the sanitizer's reports are shown.
LIBRARIES = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libstdc++.so.6)
SANITIZED = LD_PRELOAD="$(LIBRARIES)" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

# The sanitizer delays the reuse of freed memory, which therefore grows, and enlarges objects and stack frames.
test-asan: $(ADDRESS)/.ready  ## Run the unit and stress tests with AddressSanitizer and UndefinedBehaviorSanitizer.
	FASTSERVERSTATE_SANITIZE=address,undefined $(ADDRESS)/bin/python -m $(INSTALL) .
	$(STRESS) $(SANITIZED) $(ADDRESS)/bin/python -m pytest tests/unit tests/stress --ignore tests/unit/test_memory.py \
		--capture=sys -k "not memory_stays_flat and not small_thread"

$(ADDRESS)/.ready:
	$(PYTHON) -m venv $(ADDRESS)
	$(ADDRESS)/bin/python -m pip install --quiet $(UNIT_TOOLS) $(BUILD_TOOLS) streamlit
	@touch $@

# The sanitized interpreter is slow, so the free-threaded one of the same version installs its packages.
PACKAGES := $(THREAD)/lib/python3.13t/site-packages
SUPPRESSIONS := build/thread/suppressions.txt

test-tsan: $(THREAD)/.ready  ## Run the stress tests with ThreadSanitizer, on an interpreter built with it.
	FASTSERVERSTATE_SANITIZE=thread $(FREE_THREADED)/bin/python -m $(INSTALL) --upgrade --target $(PACKAGES) .
	cat "$$(tools/build_python.sh thread-sanitizer | xargs dirname)/../suppressions_free_threading.txt" \
		tools/tsan_suppressions.txt >$(SUPPRESSIONS)
	$(STRESS) TSAN_OPTIONS="suppressions=$(abspath $(SUPPRESSIONS)) history_size=7 die_after_fork=0" \
		$(THREAD)/bin/python -m pytest tests/stress --capture=sys

$(THREAD)/.ready: $(FREE_THREADED)/.ready tools/build_python.sh
	"$$(tools/build_python.sh thread-sanitizer)" -m venv --without-pip $(THREAD)
	$(FREE_THREADED)/bin/python -m pip install --quiet --upgrade --target $(PACKAGES) $(WHEELS) $(UNIT_TOOLS)
	@touch $@

# Coverage finds the lines of the core in its generated C file, which must be in the folder of its sources.
TRACE := .venvs/trace
TRACED := build/trace/cython
# Tests of signals, collections, process exits and subinterpreters do not work with trace functions in the core.
UNTRACED := ends memory reentrancy signals subinterpreter
COVERAGE = cd $(TRACED) && PYTHONPATH=$(abspath tools) $(abspath $(TRACE))/bin/python -m coverage

coverage: $(TRACE)/.ready  ## Report which lines of Python and of the core the unit tests execute.
	FASTSERVERSTATE_TRACE=1 $(TRACE)/bin/python -m $(INSTALL) .
	cp -r src $(TRACED)
	-$(COVERAGE) run --rcfile $(abspath pyproject.toml) -m pytest $(abspath tests/unit) --rootdir $(CURDIR) \
		$(UNTRACED:%=--ignore $(abspath tests/unit)/test_%.py) --numprocesses 2 --dist worksteal
	$(COVERAGE) combine --quiet --rcfile $(abspath pyproject.toml)
	$(COVERAGE) report --rcfile $(abspath pyproject.toml)

$(TRACE)/.ready:
	$(PYTHON) -m venv $(TRACE)
	$(TRACE)/bin/python -m pip install --quiet $(UNIT_TOOLS) $(BUILD_TOOLS) "coverage>=7.10" streamlit
	@touch $@

lint: $(READY)  ## Check style, types and workflows.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/cython-lint src
	$(BIN)/python tools/prose.py
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/zizmor --offline --persona pedantic --quiet .
	$(BIN)/actionlint
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

# `docs` is a folder, too.
.PHONY: docs pictures

docs: $(READY)  ## Build the documentation in build/docs.
	@$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet --fresh-env --doctree-dir build/doctrees docs build/docs
	@echo "Built: $(abspath build/docs/index.html)"

pictures: $(READY)  ## Take the documentation's pictures again, from running apps.
	PYTHONPATH=tests $(BIN)/python tools/pictures.py

bench: $(READY)  ## Measure, compared with a dict and with streamlit-server-state.
	$(BIN)/python -m pytest bench --benchmark-only
	$(BIN)/python bench/instructions.py

bench-check: $(READY)  ## Compare instruction counts of the operations with bench/instructions.json.
	$(BIN)/python bench/instructions.py --check

bench-cluster: $(READY)  ## Measure several servers, compared with a request to Redis per access.
	PYTHONPATH=tests:bench $(BIN)/python bench/cluster

bench-durable: $(READY)  ## Measure state in a file, compared with a dict and with other packages that store values.
	$(BIN)/python bench/durability.py

load: $(READY)  ## Load a real server with hundreds of sessions, compared with streamlit-server-state.
	cd bench && PYTHONPATH=../tests $(abspath $(BIN))/python -m load

sdist: $(READY)  ## Build a reproducible sdist in dist/.
	$(BIN)/python tools/wheels.py --sdist

wheels: $(READY)  ## Build and test the sdist and a wheel for each CPython of this machine, in dist/.
	$(BIN)/python tools/wheels.py

clean:  ## Remove everything that the other targets create.
	rm -rf $(VENV) .venvs build dist src/*.egg-info src/fastserverstate/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
