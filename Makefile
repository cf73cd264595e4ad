# make sweep    set up, run the demo sweep, print its table, draw its figure
# make test     set up for development, run every test
# make lint     ruff and mypy          make model    train the shipped checkpoints anew

PYTHON ?= python3
VENV ?= .venv
# Pinned, so that installing the rest keeps the build that is there: the CPU build where pip is shown one.
TORCH ?= torch==2.13.0
# Test processes side by side, for the tests that need no cluster.
TEST_JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: sweep test test-slurm test-ray lint model clean
.DELETE_ON_ERROR:

sweep: $(VENV)/.installed
	$(BIN)/causalsweep run examples/demo.yaml
	$(BIN)/causalsweep summary demo
	$(BIN)/causalsweep report demo

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile -m "not slurm and not ray"
	$(MAKE) --jobs 2 --keep-going --output-sync=target test-slurm test-ray

# On pretend clusters tests mostly wait: one process for SLURM and one for Ray, side by side.
test-slurm: $(VENV)/.installed-dev
	$(BIN)/pytest -m "slurm and not ray"

test-ray: $(VENV)/.installed-dev
	$(BIN)/pytest -m ray

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

model: $(VENV)/.installed
	$(BIN)/python examples/train_demo_model.py
	$(BIN)/python examples/train_arithmetic_model.py --threads 1

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)" --editable ".[slurm,ray]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)" --editable ".[slurm,ray,dev]"
	touch $(VENV)/.installed $@
