PYTHON ?= python3
WORKERS ?= 2
SEED ?= 0
SCALE ?= 1

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

# Tests start hundreds of processes: without its cache of compiled modules, Python would compile thousands in each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint attack mutation results docs setup clean FORCE
.DEFAULT_GOAL := setup

demo: setup
	$(BIN)/tdmpc demo

# torch.compile and run-time shape checks do not go together, hence two passes; the first imports only what it runs.
test: lint
	$(PYTEST) -m compiles $$(grep -rl 'mark\.compiles' --include='test_*.py' tests)
	$(PYTEST) -m "not compiles" --shape-checks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# Kills, odd environments, wrong command lines, flipped bits and hostile observations; see tests/attack/__main__.py.
attack: setup
	$(BIN)/python -m tests.attack --seed $(SEED) --scale $(SCALE)

# Small faults in the core, each of which a test should notice; see [tool.mutmut] in pyproject.toml.
mutation: setup
	$(BIN)/mutmut run --max-children $(WORKERS) $(MUTANTS)

# Tables and figures of README.md, results/README.md and docs/ from the CSVs in results/.
results: setup
	$(BIN)/tdmpc results render

# The site, in build/site; a link that leads nowhere fails. What builds it is installed here, and by nothing else.
docs: setup
	$(PIP) install --quiet --constraint requirements.lock --no-build-isolation --editable '.[docs]'
	$(BIN)/python docs/site.py build/pages
	$(BIN)/zensical build --strict --config-file mkdocs.yml

setup: $(STAMP)

# The stamp says that an installation was finished, and is brought up to date. Where it is missing, the installation is
# new or was interrupted: it starts from zero. It does so too when PYTHON names another version than it was made with.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell $(BIN)/python --version 2>&1),$(shell $(PYTHON) --version 2>&1))
FROM_ZERO := yes
$(STAMP): FORCE
endif
endif
endif

# The second pip line finds PyTorch there, and adds only the GPU libraries that a CUDA build of it asks for. Python compiles
# what it imports; that pip compiles everything would take a third of the set-up's time.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "tdmpc needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' says: $$($(PYTHON) --version 2>&1 | head -n 1)." \
			"Name another: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; \
		exit 1; }
	@if [ -e $@ ] && [ -z "$(FROM_ZERO)" ]; then rm $@; else $(PYTHON) -m venv --clear .venv; fi
	$(PIP) install --no-compile --no-deps --requirement requirements.lock
	$(PIP) install --no-compile --constraint requirements.lock torch
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What tools leave behind; the environment and the runs stay.
clean:
	rm -rf build dist mutants *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
