# Every target makes the virtual environment it needs: a machine with Python, git and
# make is enough. Another interpreter: make test PYTHON=python3.12
# One test: make test ARGS="tests/core -k fair"

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=

SHELL := /bin/sh
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A stamp of another interpreter doesn't count, so a change of PYTHON rebuilds.
MADE := $(VENV)/.made-$(shell $(PYTHON) -c \
	'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none)

.PHONY: test sandbox faults bench matrix lint format types coverage clean help

help:
	@echo "make test      the tests, on a real PostgreSQL"
	@echo "make sandbox   the main job on a real server under load; SERVE=1 keeps it up"
	@echo "make faults    break things under traffic; writes docs/reliability.rst"
	@echo "make bench     the benchmarks of docs/benchmarks.rst"
	@echo "make matrix    the tests on every Python and Django that is here"
	@echo "make lint | types | format | coverage | clean"

.DEFAULT_GOAL := help

test: $(VENV)/.with-test
	$(BIN)/python -m pytest $(ARGS)

sandbox: $(VENV)/.with-sandbox
	$(BIN)/python -m sandbox.run $(ARGS)

faults: $(VENV)/.with-test
	DBPOOL_MW_TEST_WRITE_DOCS=1 $(BIN)/python -m pytest tests/faults $(ARGS)

bench: $(VENV)/.with-sandbox
	$(BIN)/python -m sandbox.benchmarks $(ARGS)

matrix: $(VENV)/.with-matrix
	$(BIN)/python -m tox run-parallel --parallel $(JOBS) --parallel-no-spinner \
		--result-json .tox/result.json $(ARGS)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.with-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.with-types
	$(BIN)/mypy --strict dbpool_mw

# django_tasks.py is for Django 6, which needs that Python.
coverage: $(VENV)/.with-dev
	@$(BIN)/python -c 'import django, sys; sys.exit(django.VERSION < (6,))' || { \
		echo "Coverage is measured on Django 6 or newer, from Python 3.12 on." \
			"Name one: make coverage PYTHON=python3.12" >&2; \
		exit 1; }
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clean:
	rm -rf $(VENV) .tox build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache

# The requirements stand in setup.py: when it changes, everything is made anew.
$(MADE): setup.py
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON). Name a Python: make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "$$($(PYTHON) -V 2>&1) is too old: dbpool_mw needs Python 3.10 or newer." \
			"Name one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) can't make a virtual environment." \
			"On Debian: apt-get install python3-venv" >&2; \
		rm -rf $(VENV); \
		exit 1; }
	@touch $@

$(VENV)/.with-%: $(MADE)
	@echo "Installing what $* needs"
	@$(BIN)/python -m pip install -qq -e ".[binary,$*]"
	@touch $@
