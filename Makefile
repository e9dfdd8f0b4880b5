# The targets of the project; each sets up what it needs. `make test` is the one that must pass.
PYTHON ?= python3
BIN := .venv/bin
# The CPU build of exactly this torch is what the tests run on; megatron-core 0.17 needs Python 3.12.
TORCH := torch==2.13.0
# Exports must compute the same under this and under the version in .ci/constraints.txt.
OLDER_TRANSFORMERS := transformers==4.57.6 tokenizers==0.22.2 huggingface_hub==0.36.0
DEMO ?= demo

.PHONY: setup demo test test-full test-fast test-slurm test-trackers check bench slurm-up slurm-down build

setup: .venv/.ready

.venv/.ready: pyproject.toml .ci/constraints.txt Makefile
	@$(PYTHON) -c "import ensurepip, venv" || { echo "$(PYTHON) cannot make a virtual environment: \
	on Debian, apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up .venv: some 2 GB of packages, torch first; this takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable ".[all,dev]"
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/transformers-4.57 $(OLDER_TRANSFORMERS)
	touch $@

demo: setup
	test -e $(DEMO)/experiment.yaml || $(BIN)/meditron init $(DEMO)
	cd $(DEMO) && $(CURDIR)/$(BIN)/meditron submit pipeline --cluster local --size tiny --wait
	cd $(DEMO) && $(CURDIR)/$(BIN)/meditron report

# The gate: at least one test of each kind of fault.
test: setup
	$(BIN)/python -m tests.side_by_side "not full"

# Before an issue is closed that touches supervision, Slurm or the engine.
test-full: setup
	$(BIN)/python -m tests.side_by_side

test-fast: setup
	$(BIN)/python -m pytest -m "not (slurm or engine or end_to_end or full)"

test-slurm: setup
	$(BIN)/python -m pytest -m "slurm and not full"

# `meditron sync` with the real MLflow and wandb, which nothing else needs.
test-trackers: setup
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/trackers mlflow==3.17.2 wandb==0.31.0
	$(BIN)/python -m pytest tests/trackers/real_trackers.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tests.bench $(ONLY)

slurm-up: setup
	$(BIN)/python tests/slurm/cluster.py up

slurm-down: setup
	$(BIN)/python tests/slurm/cluster.py down

build: setup
	$(BIN)/python -m build --wheel --sdist --outdir dist .
