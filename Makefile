# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# e.g. make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu ; empty = what pip finds by itself
TORCH_INDEX ?=
export PYTHONPATH := $(CURDIR)
export TOKENIZERS_PARALLELISM := false
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test test-all app check fix mutate throughput plan-bench methods-table gpu faults soak doors fuzz papers

demo: $(VENV)/.installed
	$(BIN)/python -P -m workbench run docs/demo.yaml
	@echo; echo "Open the app with:  make app   (then http://127.0.0.1:8501)"

app: $(VENV)/.installed
	$(BIN)/python -P -m streamlit run app.py

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

test: $(VENV)/.installed-dev
	$(BIN)/python -P -m pytest -q -n 2 --dist loadfile tests

test-all: $(VENV)/.installed-dev
	WORKBENCH_ALL_HOSTS=1 $(BIN)/python -P -m pytest -q -n 2 --dist loadfile --slow --ignore=tests/faults tests

check: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python -P -m pytest -q -n 2 --dist loadfile tests/house tests/core tests/kernel tests/contract

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

mutate: $(VENV)/.installed-dev
	$(BIN)/python -P tests/mutate/run.py

# every fault at every place, then the proof that the net bites; `make test` runs a slice of it
faults: $(VENV)/.installed-dev
	$(BIN)/python -P -m pytest -q -n 2 --dist worksteal --slow tests/faults
	$(BIN)/python -P tests/mutate/run.py --faults

# every attack at every door with its counts, then the proof that each defence is needed; `make test` runs most of it
doors: $(VENV)/.installed-dev
	$(BIN)/python -P -m pytest -q -n 2 --dist loadfile --slow tests/doors tests/bad_inputs
	$(BIN)/python -P tests/mutate/run.py --doors

# daemons, workers, engines and clients killed every few seconds, for hours; 0 = all is well
soak: $(VENV)/.installed-dev
	WORKBENCH_SOAK_MINUTES=$${WORKBENCH_SOAK_MINUTES:-360} $(BIN)/python -P tests/faults/soak.py

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -P tests/fuzz/run.py --inputs 20000

# every paper whose claim has been shown, one after another; fails at the first that does not hold
papers: $(VENV)/.installed
	set -e; for file in workbench/papers/[0-9]*.yaml; do key=$${file##*/???-}; $(BIN)/python -P -m workbench paper $${key%.yaml}; done

gpu:
	$(PYTHON) -m pytest -q tests/gpu -m gpu -p no:cacheprovider

throughput: $(VENV)/.installed-dev
	$(BIN)/python -P tests/bench/throughput.py

plan-bench: $(VENV)/.installed-dev
	$(BIN)/python -P tests/bench/plan.py
	$(BIN)/python -P tests/bench/plan.py --held-out

methods-table: $(VENV)/.installed-dev
	$(BIN)/python -P tests/bench/methods.py
