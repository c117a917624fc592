# Every target makes the virtual environment that it needs: a machine with Python, git and
# make is enough. With another interpreter: make test PYTHON=python3.12
# One test: make test ARGS="tests/core -k fair"
# On psycopg (3), where the default is psycopg2: make test LIBRARY=psycopg

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
LIBRARY ?= $(or $(DBPOOL_MW_TEST_LIBRARY),psycopg2)

SHELL := /bin/sh
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DBPOOL_MW_TEST_LIBRARY := $(LIBRARY)

# Both libraries are installed, and Django takes psycopg unless it is hidden. The tests
# hide it themselves.
HIDING := $(if $(filter psycopg2,$(LIBRARY)),PYTHONPATH="$(CURDIR)/sandbox/hidden")

# The stamp's name has the interpreter's version: another PYTHON makes .venv anew.
MADE := $(VENV)/.made-$(shell $(PYTHON) -c \
	'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none)

#: What the tests, the types and the benchmarks need of what users may install.
EXTRAS := binary,psycopg-binary,celery,gevent,prometheus,otel

#: What `make check` runs: no test here needs a web server, PgBouncer or PostGIS.
QUICK := tests/core tests/django tests/project $(wildcard tests/test_layers.py)

.PHONY: check quick test sandbox faults bench compare grafana docs matrix lint format
.PHONY: types coverage package readme clean help

help:
	@echo "make check     lint, types and the quick tests, in minutes"
	@echo "make test      all tests, on a real PostgreSQL; LIBRARY=psycopg: with psycopg 3"
	@echo "make sandbox   the main job on a real server under load; SERVE=1 keeps it up"
	@echo "make faults    break things under traffic; writes docs/reliability.rst"
	@echo "make bench     the benchmarks of docs/benchmarks.rst"
	@echo "make compare   other pools and PgBouncer beside this one; docs/comparison.rst"
	@echo "make grafana   writes the dashboard and the alerts of docs/grafana"
	@echo "make package   builds the sdist and the wheel into dist/, and checks both"
	@echo "make readme    follows README.rst in new projects, with that wheel"
	@echo "make docs      the site of docs/, in build/docs; a warning is an error"
	@echo "make matrix    the tests on every Python and Django that is installed"
	@echo "make lint | types | format | coverage | clean"

.DEFAULT_GOAL := help

# Each part is a make of its own, so that they run in this order under make -j too.
check:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory quick

quick: $(VENV)/.with-test
	$(BIN)/python -m pytest -n $(JOBS) -q $(QUICK) $(ARGS)

test: $(VENV)/.with-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

sandbox: $(VENV)/.with-sandbox
	$(HIDING) $(BIN)/python -m sandbox.run $(ARGS)

faults: $(VENV)/.with-test
	DBPOOL_MW_TEST_WRITE_DOCS=1 $(BIN)/python -m pytest tests/faults $(ARGS)

bench: $(VENV)/.with-sandbox
	$(HIDING) $(BIN)/python -m sandbox.benchmarks $(ARGS)

compare: $(VENV)/.with-compare
	$(BIN)/python -m sandbox.compare $(ARGS)

# Grafana's library needs Python 3.11.
grafana: $(VENV)/.with-grafana
	$(BIN)/python -m sandbox.grafana

# pyroma asks for the authors' mail address too: there is none, the project has Issues.
package: $(VENV)/.with-package
	$(BIN)/python -m sandbox.package
	$(BIN)/twine check --strict dist/*
	$(BIN)/pyroma --min 10 --skip-tests AuthorEmail dist/*.tar.gz

readme: package
	$(BIN)/python -m sandbox.readme dist/*.whl

# Each build reads every page: a second one would not warn of the pages that it leaves.
docs: $(VENV)/.with-docs
	rm -rf build/docs
	$(BIN)/python -m sphinx -q -n -W --keep-going docs build/docs $(ARGS)

matrix: $(VENV)/.with-matrix
	$(BIN)/python -m tox run-parallel --parallel $(JOBS) --parallel-no-spinner \
		--result-json .tox/result.json $(ARGS)

lint: $(VENV)/.with-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms \
		.github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-config \
		.github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

format: $(VENV)/.with-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.with-types
	$(BIN)/mypy

# binding/tasks.py needs Django 6, and Django 6 needs Python 3.12.
coverage: $(VENV)/.with-dev
	@$(BIN)/python -c 'import django, sys; sys.exit(django.VERSION < (6,))' || { \
		echo "Coverage is measured on Django 6 or newer, from Python 3.12 on." \
			"Name one: make coverage PYTHON=python3.12" >&2; \
		exit 1; }
	$(BIN)/coverage erase
	DBPOOL_MW_TEST_LIBRARY=psycopg2 $(BIN)/coverage run -m pytest $(ARGS)
	DBPOOL_MW_TEST_LIBRARY=psycopg $(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet --fail-under=0
	$(BIN)/coverage report

clean:
	rm -rf $(VENV) .tox build dist *.egg-info .coverage .coverage.* htmlcov
	rm -rf .mypy_cache .pytest_cache .ruff_cache

# pyproject.toml has the requirements: when it changes, .venv is made anew.
$(MADE): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) not found. Name a Python: make PYTHON=/path/to/python3" >&2; \
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
	@# The pip that comes with an older Python finds no versions that fit together.
	@$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	@touch $@

# PostgreSQL's drivers and Django come from the environment itself.
$(VENV)/.with-compare: $(MADE)
	@echo "Installing what compare needs"
	@$(BIN)/python -m pip install -qq -e ".[$(EXTRAS)]" --group compare
	@$(BIN)/python -m pip install -qq --no-deps --target $(VENV)/postgrespool2 \
		--group postgrespool2 || echo "django-postgrespool2 can't be installed."
	@touch $@

$(VENV)/.with-%: $(MADE)
	@echo "Installing what $* needs"
	@$(BIN)/python -m pip install -qq -e ".[$(EXTRAS)]" --group $*
	@touch $@
