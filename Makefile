# SPDX-License-Identifier: GPL-2.0-only
# Two commands need nothing but python3 (3.11 or newer, with venv) and make:
#   make race    find the race under one strategy, hold the other against the same scenarios
#   make test    the whole suite: pytest with doctests, mypy --strict, ruff

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: race test bench peers docs clean

race: $(VENV)/.installed
	@$(BIN)/mmref race

test: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2

bench: $(VENV)/.bench-installed
	$(BIN)/python -m pytest benchmarks -q --benchmark-only --benchmark-group-by=group

peers: $(VENV)/.peers-installed
	$(BIN)/python benchmarks/peers.py

docs: $(VENV)/.docs-installed
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mmref needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make race PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing mmref into $(VENV) (first time only)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.%-installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing mmref and its $* tools into $(VENV) (first time only)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build
