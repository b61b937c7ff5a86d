# Sets up the environment on a machine that has Python (3.11 or later) and make, then makes the target.
#   make             this help
#   make env         the environment in .venv, with the tools for tests; then: . .venv/bin/activate
#   make table3      the environment, then `snakemake --cores all table3`; also for other tables, figures, claims, all
#   make report      all tables, figures and claims that exist, in one file: report.html
#   make test        the environment, then all fast tests and the checks of format and style
#   make test-slow   the slow tests (kills and resumptions, full-size networks, simulated studies)
#   make test-gpu    the tests on a CUDA device; without a device they are skipped
#   make bench-gpu   speed and memory of training steps on a CUDA device
#   make parity      the comparison with MMDetection, if a wheel of mmcv is available (make parity WHEELS=folder)
#   make docs        the measured tables in README.md and docs/, filled from results/reference
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help env all tables figures claims notebooks report docs test test-slow test-gpu bench-gpu parity lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,11p' Makefile

# Install with uv if uv is available, else with pip. Both install the tested versions.
define install
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python " + sys.version.split()[0] + " is too old; choose version 3.11 or later with make PYTHON=…")'
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
	@echo "Setting up $(VENV): this takes some minutes and 5 GB the first time"
	$(call install,.)

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): this takes some minutes and 5 GB the first time"
	$(call install,.[dev])
	@touch $(VENV)/.ready

env: $(VENV)/.ready-dev
	@echo "Ready; activate it with: . $(VENV)/bin/activate"

docs: $(VENV)/.ready
	$(BIN)/python docs/fill_tables.py

all tables figures claims notebooks: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores all $@

report: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --report report.html

table%: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores all $@

gfl_table%: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores all $@

# The tests of a file stay in one process, since they share what the file's fixtures train. One thread for each process.
test: lint
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 python -m pytest -n logical --maxprocesses 8 --dist loadfile --durations=8

test-slow: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" python -m pytest -m slow --durations=8

test-gpu: $(VENV)/.ready-dev
	PATH="$(abspath $(BIN)):$$PATH" python -m pytest -m gpu -rs --durations=8

bench-gpu: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" workbench bench steps table5 --scale coco --gpu --precision fp32 --precision tf32 --precision bf16
	[ ! -x $(PARITY)/bin/python ] || $(PARITY)/bin/python -W ignore -m tests.parity.bench_steps

# Comparison with MMDetection as a black box, in a separate environment: MMDetection needs older packages.
# WHEELS is a folder with a wheel of mmcv 2.1.0.
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
