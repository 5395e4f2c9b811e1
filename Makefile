# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format recipes benchmarks clean

help:
	@echo "make demo        set up, then train, export, prove and time a small model"
	@echo "make test        set up, then lint, types, layers and tests"
	@echo "make install     set up only, in $(VENV)"
	@echo "make format      format the code"
	@echo "make recipes     train, export, quantize and prune every recipe (hours)"
	@echo "make benchmarks  run every script in benchmarks/ (hours)"
	@echo "make clean       remove $(VENV) and the demo"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt edgekit/agent/js/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekit needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[tfjs,litert,phone,dev]'
	$(BIN)/edgekit targets prepare node
	@touch $@

demo: install
	$(BIN)/edgekit demo

test: lint
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

recipes: install
	$(BIN)/python benchmarks/recipes.py

benchmarks: install
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) demo
