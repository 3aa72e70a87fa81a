# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first, when it is not there or out of date.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# the first of these that is Python 3.11 or 3.12
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info[:2] not in {(3,11),(3,12)})' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help demo test check bench bench-forecast format clean wheel

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; none of python3, python3.12, python3.11 is one."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench,deepspeed,dev,foundation,ode,onnx,prophet,statistical]'
	touch $(INSTALLED)

demo: $(INSTALLED)  ## the main job on real data, from bars to a promotion decision
	$(BIN)/quantfleet run jobs/recipes/quickstart.yaml --overwrite

test: $(INSTALLED)  ## the whole test suite; tests that need Ceph, PostgreSQL or Chromium say so when these are absent
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

check: $(INSTALLED)  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## compare speed with the peers, `make bench ONLY=A1,C` for some rows; writes bench/results.json
	$(BIN)/python -m bench --only "$(ONLY)"

bench-forecast: $(INSTALLED)  ## forecasters against their papers' figures on ETTh1 and exchange_rate; ONLY=dlinear,patch_tst MINUTES=60
	$(BIN)/python -m bench.forecast --only "$(ONLY)" --minutes "$(or $(MINUTES),60)"

format: $(INSTALLED)  ## put the code into the format that check wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(INSTALLED)  ## build dist/quantfleet-*.whl
	$(BIN)/python -m build --wheel

clean:  ## remove .venv, caches and the demo's output
	rm -rf $(VENV) .quantfleet dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
