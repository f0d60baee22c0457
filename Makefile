# The graph from params/ to outputs/. `make` alone lists what there is.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= 7
SEED ?= 0

# papermill's arguments from EPOCHS=, STOP=, IMAGES=, DEVICE=, DATA=; and the same as name=value
EXTRA := $(if $(EPOCHS),epochs=$(EPOCHS)) $(if $(STOP),stop_epoch=$(STOP)) $(if $(IMAGES),train_images=$(IMAGES))
WHERE := $(if $(DEVICE),device=$(DEVICE)) $(if $(DATA),data_folder=$(DATA))
papermill_arguments = $(foreach pair,$(1),-p $(subst =, ,$(pair)))

.PHONY: help setup data train bench lab test lint
help:
	@echo "make train RUN=7 EPOCHS=10   train a run of Table 1 (also SEED= STOP= IMAGES= DEVICE= DATA=)"
	@echo "make lab                     open JupyterLab on the notebooks"
	@echo "make bench                   images per second of the training loop beside this machine's matrix rate"
	@echo "make test                    lint and tests"
	@echo "make data                    fetch and verify CIFAR-10"

setup: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml
	@echo "== making the environment $(VENV): PyTorch, JupyterLab and the rest, about 3 GB"
	@$(PYTHON) -c 'import sys; sys.exit("error: Python %d.%d is too old, 3.10 or newer is needed: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

data: setup
	@$(BIN)/python -m cifarlib.data $(DATA)

train: setup
	@set -o pipefail; folder=outputs/$$($(BIN)/python -m cifarlib.params $(RUN) seed=$(SEED) $(EXTRA)) && mkdir -p $$folder && \
	echo "== training run $(RUN), seed $(SEED): record and executed notebook in $$folder" && \
	$(BIN)/papermill notebooks/train.ipynb $$folder/train.ipynb --log-output --no-progress-bar \
	  $(call papermill_arguments,run=$(RUN) seed=$(SEED) $(EXTRA) $(WHERE)) 2>&1 | \
	  grep --line-buffered -vE '^(Executing|Ending) Cell |IPKernelApp|^$$' && \
	echo "== done: open $$folder/train.ipynb (make lab), or read $$folder/record.json"

bench: setup
	@$(BIN)/python -m cifarlib.bench

lab: setup
	@$(BIN)/jupyter lab notebooks

lint: setup
	@$(BIN)/ruff check && $(BIN)/ruff format --check

test: lint
	@$(BIN)/python -m pytest -q
