# Sets up the environment on a machine that has Python (3.11 or later) and make, then runs what was asked for.
#   make table3      the environment, then `snakemake --cores all table3`; so do the other tables, figures, claims, all
#   make report      tables, figures and claims that are there in one file, report.html
#   make test        the environment, then all fast tests and the format and lint checks
#   make test-gpu    the environment, then the tests of a CUDA device; without one they are skipped
#   make parity      the comparison with MMDetection, where mmcv is at hand (make parity WHEELS=folder)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help all tables figures claims notebooks report test test-slow test-gpu parity lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,6p' Makefile

# uv where it is installed, pip otherwise; the tested versions either way.
define install
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; name another one with make PYTHON=…")'
	@if command -v uv >/dev/null; then \
	    [ -x $(BIN)/python ] || uv venv --quiet --python "$$(command -v $(PYTHON))" $(VENV); \
	    uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '$(1)'; \
	else \
	    [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'; \
	fi
	@touch $@
endef

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): some minutes and 5 GB the first time"
	$(call install,.)

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): some minutes and 5 GB the first time"
	$(call install,.[dev])
	@touch $(VENV)/.ready

all tables figures claims notebooks: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores all $@

report: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --report report.html

table%: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores all $@

gfl_table%: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores all $@

test: lint
	PATH="$(abspath $(BIN)):$$PATH" python -m pytest --durations=8

test-slow: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" python -m pytest -m slow --durations=8

test-gpu: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" python -m pytest -m gpu -rs --durations=8

# Against MMDetection as a black box, in an environment of its own: it needs older packages than the workbench.
# WHEELS names a folder with a wheel of mmcv 2.1.0.
PARITY := $(VENV)-parity
parity: $(PARITY)/.ready
	$(PARITY)/bin/python -m pytest -W ignore tests/parity tests/layers/test_deform.py

$(PARITY)/.ready: tests/parity/requirements.txt pyproject.toml
	[ -x $(PARITY)/bin/python ] || $(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(WHEELS),--find-links $(WHEELS)) -r tests/parity/requirements.txt -e .
	@touch $@

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" snakefmt --check Snakefile

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	PATH="$(abspath $(BIN)):$$PATH" snakefmt Snakefile

clean:
	rm -rf $(VENV) $(PARITY) build *.egg-info .pytest_cache .ruff_cache
