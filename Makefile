# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch>=2.6

.PHONY: demo test test-extras lint bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "panmodal needs Python 3.11 or newer; give one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## Benchmark the shipped data; prints where the report is
	$(BIN)/panmodal demo --out panmodal-demo

test: $(VENV)/.installed-dev  ## Lint, types and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

test-extras: $(VENV)/.installed-dev  ## What `make test` skips: PyTorch, graph networks, language models (TORCH names the build, such as a CPU one)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' torchmetrics '.[dev,deep,graph,models]'
	$(BIN)/python -m pytest -q -n 2 tests/embeddings tests/probes tests/evaluation tests/fusion tests/execution

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev  ## Speed and memory, side by side with scikit-learn and scanpy (half an hour; deg_sweep.py needs PyTorch)
	$(BIN)/python benchmarks/lfc_sweep.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/ceiling.py
	$(BIN)/python benchmarks/deg_metrics.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/fingerprints.py
	$(BIN)/python benchmarks/leaderboard.py
	$(BIN)/python benchmarks/fusion_linear.py
	$(BIN)/python benchmarks/fusion_simulated.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/trials.py
	$(BIN)/python benchmarks/scaling.py

clean:
	rm -rf $(VENV) panmodal-demo build dist .pytest_cache .mypy_cache .ruff_cache
