# Development tasks. Needs GNU make and Python 3.11 or newer with venv. Everything else is installed into a virtual environment from
# the lock files in requirements/ when it is missing or out of date.
#
#   VENV=DIR      virtual environment (.venv)
#   PYTHON=FILE   Python that creates it (python3, or the first suitable version)
#   SEEDS=N       number of simulated runs (sim); SEED=N repeats one with its full trace
#   ENGINE=NAME   engine of the demo: log, or temporal with Temporal's development server
#   WORKERS=N     test processes (test); by default half as many again as there are processors, because many tests mostly wait
#   ARGS=...      passed on to pytest (test), waterflowctl demo (demo), the benchmark (bench) or the lock script (lock)

VENV ?= .venv
ARGS ?=
SEEDS ?= 1000
WORKERS ?= $(shell expr $$(nproc) '*' 3 / 2)
bin = $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check coverage nightly golden reference sim mutants bench dist web web-bench lock clean environment environment-dev \
	packages deb rpm packages-test packages-nightly packages-lock environment-packaging

help: ## Show this list
	@echo "make TARGET [ARGS=...]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 20

demo: environment$(if $(filter temporal,$(ENGINE)),-dev) ## Run a demo on this machine: a repository, a daemon, three agents and a first run
	@$(bin)/waterflowctl demo $(if $(ENGINE),--engine $(ENGINE)) $(ARGS)

test: environment-dev ## Run the whole test suite; ARGS="-k name" selects tests
	@$(bin)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: environment-dev ## Check format, lint and types, run the quick tests, list the largest modules and functions
	@$(bin)/ruff format --check --quiet .
	@$(bin)/ruff check --quiet .
	@$(bin)/mypy
	@$(bin)/python -m pytest -q -n auto -m "not slow" tests/tidy tests/unit tests/golden $(ARGS)
	@$(bin)/python -m tests.tidy.sizes

coverage: environment-dev ## Measure code coverage; ARGS="tests/unit" selects tests
	@$(bin)/python -m coverage erase
	@$(bin)/python -m pytest -q -n auto --cov --cov-report= $(if $(ARGS),$(ARGS),tests/unit tests/golden tests/property tests/contract tests/integration)
	@$(bin)/python -m coverage report --skip-covered --sort=cover

nightly: environment-dev ## Run the slow tests: faults at every system call, new random examples (hours); ARGS="-k name" selects tests
	@WATERFLOW_SWEEP=full WATERFLOW_ROUNDS=50 $(bin)/python -m pytest -n 2 tests/attack tests/booted/test_node_suite.py tests/booted/test_containers.py tests/acceptance/recovery/test_crashes.py tests/acceptance/recovery/test_upgrades.py tests/acceptance/temporal/test_kills.py tests/acceptance/temporal/test_storm.py tests/acceptance/operations/test_api_schema.py tests/acceptance/operations/test_documented_commands.py tests/acceptance/language/test_imports.py tests/integration/temporal/test_lost_calls.py tests/oracle tests/property tests/web/test_log.py $(ARGS)
	@$(bin)/python -m pytest -n 2 tests/acceptance --engine temporal --ignore tests/acceptance/temporal $(ARGS)

golden: environment-dev ## Rewrite the traces of the golden scenarios; review the diff before you commit it
	@WATERFLOW_GOLDEN=rewrite $(bin)/python -m pytest -q tests/golden $(ARGS)

reference: environment-dev ## Regenerate the language reference, JSON Schemas and list of variables from the models
	@WATERFLOW_REFERENCE=rewrite $(bin)/python -m pytest -q tests/tidy/test_reference.py tests/tidy/test_samples.py $(ARGS)

sim: environment-dev ## Simulate daemon and agents under random faults: SEEDS=N runs, or SEED=N to repeat one
	@$(bin)/python $(if $(MUTANTS),-m tests.mutation.mutants,-m tests.simulator $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))) $(ARGS)

mutants: ## Mutation tests: break the product in many small ways; the simulator must notice each
	@$(MAKE) --no-print-directory sim MUTANTS=1

bench: environment-dev ## Run the benchmarks
	@$(bin)/python -m bench $(ARGS)

web-bench: environment-dev ## Measure the web pages in Chromium
	@$(bin)/python -m bench web

# A leftover build directory would add deleted modules to the wheels.
dist: environment ## Build the wheels of both distributions into dist/
	@rm -rf build agent/build dist
	@$(bin)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist ./agent .
	@rm -rf build agent/build
	@ls -1 dist

# Needs Debian 12 for the bundled interpreter. SOURCE_DATE_EPOCH defaults to the time of the last commit.
packages: dist environment-packaging ## Build deb and rpm packages of the daemon and the agent into dist/; ARGS="--release 2" sets the release
	@PYTHONPATH=packaging $(bin)/python -m builder $(ARGS)

deb: ## Build only the deb packages
	@$(MAKE) --no-print-directory packages ARGS="--format deb $(ARGS)"

rpm: ## Build only the rpm packages
	@$(MAKE) --no-print-directory packages ARGS="--format rpm $(ARGS)"

packages-test: environment-dev environment-packaging ## Build the packages twice, install them under systemd, run lintian and rpmlint; skips what cannot run here
	@$(bin)/python -m pytest -q -p no:cacheprovider packaging/proof $(ARGS)

packages-nightly: ## The same on a clean machine, with all tools installed and nothing skipped: as root, on Debian 12
	@packaging/proof/nightly

packages-lock: environment-packaging ## Pin the newest Debian packages for the bundled interpreter
	@PYTHONPATH=packaging $(bin)/python -m builder --lock

web: ## Build the web pages into waterflowd/web/static (needs Node.js and npm)
	@cd waterflowd/web/src && npm ci --silent --ignore-scripts --no-audit --no-fund && node build.mjs

lock: ## Update the lock files; ARGS=--upgrade takes the newest versions
	@requirements/lock.sh $(ARGS)

clean: ## Remove everything that make created
	rm -rf $(VENV) build agent/build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info agent/*.egg-info
	find agent bench tests waterflowd -name __pycache__ -prune -exec rm -rf {} +

environment:
	@requirements/environment.sh "$(VENV)" runtime

# pip compiles what it installs, but not an editable installation. Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each of
# the thousands of processes that the tests start would compile Waterflow again.
environment-dev:
	@requirements/environment.sh "$(VENV)" dev
	@$(bin)/python -m compileall -q waterflowd agent/waterflow_agent

environment-packaging: environment
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements/packaging.txt
