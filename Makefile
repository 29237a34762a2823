# make train   one environment, then the main job: data, attacks, masks, detector, results
# make test    the same environment with the test tools, then the tests, but for those that are marked slow
# make test-all   every test
# make lint    style, types, import order, declared dependencies
# make check   lint and test: what CI runs
# make docs    the pages of docs/ as a site, site/index.html; a broken link or an unlisted page is an error
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PYTEST := $(VENV)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
INPUTS := pyproject.toml constraints.txt

.PHONY: train test test-all lint check docs clean-env python-version
.DEFAULT_GOAL := check

train: $(VENV)/.installed
	$(VENV)/bin/verisal fit --config configs/detector.yaml

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev
	$(PYTEST)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/deptry src

check: lint test

docs: $(VENV)/.installed-dev
	$(VENV)/bin/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --doctree-dir site/.doctrees docs site
	@echo "open site/index.html"

# The stamps are older than their inputs only after a change of the pins: the environment is reused until then.
$(VENV)/.installed: $(INPUTS) | python-version
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[scenes]'
	touch $@

$(VENV)/.installed-dev: $(INPUTS) | python-version
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

python-version:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "verisal needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
		"Name another one: make PYTHON=python3.12 ..." >&2; exit 2; }

clean-env:
	rm -rf $(VENV)
