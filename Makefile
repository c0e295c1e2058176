# `make help` lists the targets. demo, check, bench and the tests set up what they need first.

PYTHON ?=
BROWN ?= ../shared/data/brown
WORKERS ?= 2
TESTS ?= 2
TEST_FLAGS ?=
BIN := .venv/bin
READY := .venv/.ready
LOWEST := .venv-lowest
PIP = -m pip --disable-pip-version-check install --quiet
PYTEST = -m pytest --numprocesses $(TESTS) --dist loadfile --no-loadscope-reorder --durations 40 $(TEST_FLAGS)
COMPILE = uv pip compile setup.py --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command 'make lock' --quiet $(LOCK_FLAGS)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
VERSION := import platform; print(platform.python_version())

.DEFAULT_GOAL := help
.PHONY: help setup demo brown test test-all test-lowest check docs bench lock clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

setup: $(READY) ## Create .venv from requirements.lock. PYTHON=python3.12 selects another Python.
	@if [ -n "$(PYTHON)" ] && [ "$$("$(PYTHON)" -c '$(VERSION)')" != "$$($(BIN)/python -c '$(VERSION)')" ]; then \
	  echo "setup: .venv has Python $$($(BIN)/python -c '$(VERSION)'), not $(PYTHON); remove it first: rm -rf .venv" >&2; exit 1; \
	fi
	@echo "setup: ready, .venv has Python $$($(BIN)/python -c '$(VERSION)') and charloom; next: make demo"

demo: $(READY) ## Train, evaluate and export a small model on English text included in Python.
	$(BIN)/charloom demo

brown: $(READY) ## Train the preset brown on the Brown corpus, about 20 minutes; resumes where it was stopped.
	$(BIN)/charloom prepare --preset brown --train $(BROWN)/train.txt --valid $(BROWN)/valid.txt \
	  --vocab $(BROWN)/vocab.txt --tokenizer whitespace --no-sentence-marks --records brown/records
	$(BIN)/charloom train --preset brown --records brown/records --workdir brown/work --workers $(WORKERS)

test: $(READY) ## What CI runs: the tests without volume and repetition, in TESTS=2 processes, a file in one of them.
	$(BIN)/python $(PYTEST) -m 'not extra'

test-all: $(READY) ## Every test, those of volume and repetition too.
	$(BIN)/python $(PYTEST)

test-lowest: $(LOWEST)/.ready ## The tests that tests/lowest.txt names, on the lowest versions that setup.py allows.
	$(LOWEST)/bin/python $(PYTEST) @tests/lowest.txt

check: $(READY) ## Check lint, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY) ## Regenerate docs/cli.md, config.md and parameters.md from the code.
	PYTHONPATH=. $(BIN)/python tests/reference_pages.py

bench: $(READY) ## Run every script in bench/; each measures one figure.
	@set -e; found=; for script in bench/[a-z]*.py; do \
	  [ -e "$$script" ] || continue; found=yes; echo "bench: $$script"; \
	  $(BIN)/python -m "bench.$$(basename "$$script" .py)"; \
	done; [ -n "$$found" ] || echo "bench: no scripts in bench/ yet"

lock: ## Regenerate both locks from setup.py (needs uv). LOCK_FLAGS=--upgrade allows newer versions.
	@command -v uv >/dev/null || { echo "lock: uv is missing; install it: pip install uv" >&2; exit 1; }
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --resolution lowest-direct --output-file requirements-lowest.lock

clean: ## Remove caches and build output; keeps .venv and .venv-lowest.
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A .venv that works is kept; pip then only adds what is missing. .ready is written last.
$(READY): requirements.lock setup.py
	@set -e; \
	if ! $(BIN)/python -c 'import pip; $(SUPPORTED)' 2>/dev/null; then \
	  usable=; bare=; \
	  for python in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3); do \
	    "$$python" -c '$(SUPPORTED)' 2>/dev/null || continue; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then usable=$$python; break; fi; \
	    bare=$${bare:-$$python}; \
	  done; \
	  if [ -z "$$usable" ] && [ -n "$$bare" ]; then \
	    echo "setup: $$bare has no ensurepip; install it (Debian, Ubuntu: apt-get install $$(basename "$$bare")-venv)" >&2; exit 1; \
	  elif [ -z "$$usable" ]; then \
	    echo "setup: $(if $(PYTHON),$(PYTHON) is not,there is no) Python 3.11, 3.12 or 3.13; install one (Debian 12 or later: apt-get install python3-venv) or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  echo "setup 1/3: make .venv with $$usable ($$("$$usable" -c '$(VERSION)'))"; \
	  "$$usable" -m venv --clear .venv; \
	else \
	  echo "setup 1/3: keep .venv (Python $$($(BIN)/python -c '$(VERSION)'))"; \
	fi
	@echo "setup 2/3: install the $$(grep -c '^[a-z].*==' requirements.lock) packages of requirements.lock (some minutes and 3 GB in .venv)"
	@sed -n '/^setuptools==/,/# via/p' requirements.lock > .venv/build.txt
	@$(BIN)/python $(PIP) --require-hashes -r .venv/build.txt
	@$(BIN)/python $(PIP) --require-hashes --no-build-isolation -r requirements.lock
	@echo "setup 3/3: install charloom itself, editable"
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(LOWEST)/.ready: requirements-lowest.lock setup.py | $(READY)
	@echo "setup: make $(LOWEST) with the $$(grep -c '^[a-z].*==' requirements-lowest.lock) packages of requirements-lowest.lock (some minutes and 3 GB)"
	@$(BIN)/python -m venv --clear $(LOWEST)
	@sed -n '/^setuptools==/,/# via/p' requirements-lowest.lock > $(LOWEST)/build.txt
	@$(LOWEST)/bin/python $(PIP) --require-hashes -r $(LOWEST)/build.txt
	@$(LOWEST)/bin/python $(PIP) --require-hashes --no-build-isolation -r requirements-lowest.lock
	@$(LOWEST)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@
