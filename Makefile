# Everything that is done with a checkout. Needs GNU make and Python 3.11 or newer with venv; the rest is installed into
# a virtual environment, from the lock in requirements/, when it is missing or out of date.
#
#   VENV=DIR      the virtual environment (.venv)
#   PYTHON=FILE   the Python that makes it (python3, or the first newer one that will do)
#   SEEDS=N       how many worlds (sim); SEED=N is one of them, with its whole trace; MUTANTS=1 kills mutants instead
#   ARGS=...      passed on: to pytest (test), to waterflowctl demo (demo), to the benchmark (bench), to the lock (lock)

VENV ?= .venv
ARGS ?=
SEEDS ?= 1000
bin = $(VENV)/bin
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check coverage nightly golden reference sim mutants bench dist lock clean environment environment-dev \
	packages deb rpm packages-test packages-nightly packages-lock environment-packaging

help: ## Show this list
	@echo "make TARGET [ARGS=...]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 20

demo: environment ## See it work: a repository, a daemon, three agents and a first run on this machine
	@$(bin)/waterflowctl demo $(ARGS)

test: environment-dev ## Run the whole test suite; ARGS="-k name" narrows it
	@$(bin)/python -m pytest -n auto $(ARGS)

check: environment-dev ## Check format, lint, types, and the quick tests: half a minute
	@$(bin)/ruff format --check --quiet .
	@$(bin)/ruff check --quiet .
	@$(bin)/mypy
	@$(bin)/python -m pytest -q -n auto -m "not slow" tests/tidy tests/unit tests/golden $(ARGS)
	@$(bin)/python -m tests.tidy.sizes

coverage: environment-dev ## Measure which lines and branches the quick tests and the integration tests reach; ARGS="tests/unit" narrows it
	@$(bin)/python -m coverage erase
	@$(bin)/python -m pytest -q -n auto --cov --cov-report= $(if $(ARGS),$(ARGS),tests/unit tests/golden tests/property tests/contract tests/integration)
	@$(bin)/python -m coverage report --skip-covered --sort=cover

nightly: environment-dev ## Attack the real binaries at every system call, with every fault: hours. ARGS="-k name" narrows it
	@WATERFLOW_SWEEP=full WATERFLOW_ROUNDS=50 $(bin)/python -m pytest -n 2 tests/attack tests/acceptance/test_crashes.py tests/acceptance/test_api_schema.py tests/oracle tests/property $(ARGS)

golden: environment-dev ## Write the golden scenarios' traces anew; look at the difference before you commit it
	@WATERFLOW_GOLDEN=rewrite $(bin)/python -m pytest -q tests/golden $(ARGS)

reference: environment-dev ## Write the reference of the language and its schemas anew, from the models
	@WATERFLOW_REFERENCE=rewrite $(bin)/python -m pytest -q tests/tidy/test_reference.py $(ARGS)

sim: environment-dev ## Simulate worlds in which everything goes wrong that may: SEEDS=N of them, or SEED=N again
	@$(bin)/python $(if $(MUTANTS),-m tests.sim.mutants,-m tests.simulator $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))) $(ARGS)

mutants: ## Break the product in many small ways; the simulator must notice each of them
	@$(MAKE) --no-print-directory sim MUTANTS=1

bench: environment-dev ## Measure this machine
	@$(bin)/python -m bench $(ARGS)

# A build folder that is left over would put modules into the wheels that are gone from the source.
dist: environment ## Build the wheels of both distributions into dist/
	@rm -rf build agent/build dist
	@$(bin)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist ./agent .
	@rm -rf build agent/build
	@ls -1 dist

# Needs a Debian 12 machine for the interpreter inside. SOURCE_DATE_EPOCH is the time of the last commit when it is not set.
packages: dist environment-packaging ## Build deb and rpm of the daemon and the agent into dist/; ARGS="--release 2" numbers them
	@PYTHONPATH=packaging $(bin)/python -m builder $(ARGS)

deb: ## Build the deb packages alone
	@$(MAKE) --no-print-directory packages ARGS="--format deb $(ARGS)"

rpm: ## Build the rpm packages alone
	@$(MAKE) --no-print-directory packages ARGS="--format rpm $(ARGS)"

packages-test: environment-dev environment-packaging ## Build the packages twice, install them under real systemds, and judge them; skips what cannot run here
	@$(bin)/python -m pytest -q -p no:cacheprovider packaging/proof $(ARGS)

packages-nightly: ## The same from nothing, with what it needs installed and no proof left out: as root, on Debian 12
	@packaging/proof/nightly

packages-lock: environment-packaging ## Pin the newest Debian packages of the interpreter inside the packages
	@PYTHONPATH=packaging $(bin)/python -m builder --lock

lock: ## Pin all dependencies anew; ARGS=--upgrade takes the newest
	@requirements/lock.sh $(ARGS)

clean: ## Remove everything that make has made
	rm -rf $(VENV) build agent/build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info agent/*.egg-info
	find agent bench tests waterflowd -name __pycache__ -prune -exec rm -rf {} +

environment:
	@requirements/environment.sh "$(VENV)" runtime

environment-dev:
	@requirements/environment.sh "$(VENV)" dev

environment-packaging: environment
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements/packaging.txt
