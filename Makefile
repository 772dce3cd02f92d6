# `make demo` and `make test` each set up everything on a fresh machine, then do their job.

PYTHON ?= python3
VENV ?= .venv
# Extra arguments for pip, pytest and the demo: make test PYTEST_ARGS="-k capture"
PIP_ARGS ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=
WORKERS ?= 2
# Versions to install. Tests on the oldest torch that is supported (types hold for the newest alone):
#   sed 's/^torch==.*/torch==2.11.0/; s/^triton==.*/triton==3.6.0/' constraints.txt > /tmp/torch-2.11.txt
#   make install VENV=/tmp/torch-2.11 CONSTRAINTS=/tmp/torch-2.11.txt && /tmp/torch-2.11/bin/python -m pytest
CONSTRAINTS ?= constraints.txt

VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test zoo lint ruff mypy fmt clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install: $(INSTALLED) ## make the virtual environment (PYTHON=python3.12 picks the interpreter)

demo: $(INSTALLED) ## write an mp4 from a prompt on 2 ranks
	$(VENV_PYTHON) examples/demo.py $(DEMO_ARGS)

# One thread a worker: the workers and the ranks they start share the cores, and numbers repeat.
test: lint ## lint, then run all tests
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

zoo: $(INSTALLED) ## run the whole zoo, which takes an hour, and write docs/coverage.md
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV_PYTHON) -m tests.zoo.report --workers $(WORKERS)

lint: ruff mypy ## ruff and mypy

ruff: $(INSTALLED)
	$(VENV_PYTHON) -m ruff check .

mypy: $(INSTALLED)
	$(VENV_PYTHON) -m mypy --strict -p fastvideo_ir -p fastvideo.passes

fmt: $(INSTALLED) ## mend what ruff can mend, and format
	$(VENV_PYTHON) -m ruff check --fix-only .
	$(VENV_PYTHON) -m ruff format .

clean: ## remove the virtual environment and everything that is built
	rm -rf $(VENV) build dist outputs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# Bytecode is written where something is imported: most of what is installed never is.
# The stamp is written last, so a broken install is tried again; a change of either file installs again.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(VENV_PYTHON) -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@
