# The graph from params/ to outputs/. `make` alone lists what there is.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
# in an environment of your own: make ... SETUP= BIN="$CONDA_PREFIX/bin"
SETUP ?= $(VENV)/.installed
BIN ?= $(VENV)/bin
OUTPUTS ?= outputs
RUN ?= 7
SEED ?= 0
RUNS ?= 1 2 3 4 5 6 7 run7-mean run6-sum run4-reflect run4-nesterov run6-image-channel run7-preprocessed
SEEDS ?= 0
REPORT_FOLDER ?= $(OUTPUTS)
# the target that follows the runs on Slurm
REPORT ?= report

# EPOCHS=, STOP=, IMAGES= as the parameters that they are: of a notebook (-p epochs 8) and of a command (--epochs=8)
SCHEDULE := $(if $(EPOCHS),epochs=$(EPOCHS)) $(if $(STOP),stop_epoch=$(STOP)) $(if $(IMAGES),train_images=$(IMAGES))
OPTIONS := $(foreach pair,$(SCHEDULE),--$(subst _,-,$(pair)))
papermill_arguments = $(foreach pair,$(1),-p $(subst =, ,$(pair)))
WHERE := -p output_folder '$(OUTPUTS)' $(if $(DATA),-p data_folder '$(DATA)')
CIFARLIB := $(BIN)/python -m cifarlib
GRID := $(CIFARLIB) status $(OPTIONS) --output-folder '$(OUTPUTS)'
# what was given on the command line, quoted for the shell, as the tasks of `make slurm` need it again
GIVEN = $(foreach v,PYTHON VENV BIN OUTPUTS RUNS SEEDS EPOCHS STOP IMAGES DEVICE DATA AUTHORS,\
  $(if $(findstring command,$(origin $v)),'$v=$(subst ','\'',$($v))'))

.PHONY: help setup data train table slurm status report html pdf handin notebooks bench lab test lint
help:
	@echo "make train RUN=7 EPOCHS=10        train a run of Table 1 (also SEED= STOP= IMAGES= DEVICE= DATA= OUTPUTS=)"
	@echo 'make table SEEDS="0 1" EPOCHS=8   train what is missing of Table 1 and its variants (also RUNS=)'
	@echo 'make slurm SBATCH="--gpus=1"      the same grid as one Slurm array, the report after it (also THROTTLE=, runs at once)'
	@echo "make status                       what of the same grid is done, without training, and what Slurm says of it"
	@echo "make report                       outputs/report.html and report.pdf from the records (also AUTHORS= EPOCHS= STOP= OUTPUTS= DATA=)"
	@echo "make html NB=..., make pdf NB=... any executed notebook as one HTML file, as a typeset PDF"
	@echo "make handin NAME=First_Last RUN=7 one zip: predictions of IMAGES=..., code, network, report, notebooks (also SEED= STOP= LAYOUT=)"
	@echo "make notebooks                    executed copies of the notebooks in outputs/notebooks, for readers without a kernel"
	@echo "make lab                          open JupyterLab on notebooks/start.ipynb (also LAB=, options of jupyter lab)"
	@echo "make bench                        time the training loop beside other loops and the matrix rate (also DEVICE=)"
	@echo "make test                         lint and tests"
	@echo "make data                         fetch and verify CIFAR-10"

setup: $(SETUP)
$(VENV)/.installed: pyproject.toml
	@echo "== making the environment $(VENV): PyTorch, JupyterLab and the rest, up to 7 GB"
	@$(PYTHON) -c 'import sys; sys.exit("error: Python %d.%d is too old, 3.10 or newer is needed: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

data: setup
	@$(CIFARLIB) data $(if $(DATA),'$(DATA)')

# the executed notebook lies beside the record; a terminal sees its outputs, not papermill's word on each cell
train: setup
	@set -o pipefail; \
	folder='$(OUTPUTS)'/$$($(CIFARLIB) folder $(RUN) --seed $(SEED) $(OPTIONS)) && mkdir -p "$$folder" && \
	echo "== training run $(RUN), seed $(SEED): record and executed notebook in $$folder" && \
	$(BIN)/papermill notebooks/train.ipynb "$$folder"/train.ipynb --log-output --no-progress-bar \
	  $(call papermill_arguments,run=$(RUN) seed=$(SEED) $(SCHEDULE)) $(WHERE) $(if $(DEVICE),-p device $(DEVICE)) 2>&1 | \
	  grep --line-buffered -vE '^(Executing|Ending) Cell |IPKernelApp|^$$' && \
	echo "== done: open $$folder/train.ipynb (make lab), or read $$folder/record.json"

# one target a run and seed, so that make keeps going past a failure; papermill resumes what was begun
table: setup
	@set -o pipefail; cells=$$($(GRID) $(RUNS) --seeds $(SEEDS) --todo | sed 's|^|cell/|') && $(GRID) $(RUNS) --seeds $(SEEDS) && \
	{ [ -z "$$cells" ] || $(MAKE) --no-print-directory --keep-going $$cells; failed=$$?; \
	  echo "== the grid in $(OUTPUTS)"; $(GRID) $(RUNS) --seeds $(SEEDS) && exit $$failed; }
cell/%:
	@echo "== grid: $$($(GRID) $(RUNS) --seeds $(SEEDS) --brief)"
	@todo=$$($(GRID) $(*D) --seeds $(*F) --wait --todo) && { [ -z "$$todo" ] || \
	  $(MAKE) --no-print-directory train RUN=$(*D) SEED=$(*F); }

# environment and data first, or every task would make them; one submission at a time, or both would find nothing queued
slurm:
	@command -v sbatch >/dev/null || { echo "error: no sbatch on this machine: make table trains the same grid without Slurm" >&2; exit 1; }
	@$(MAKE) --no-print-directory setup
	@$(GRID) $(RUNS) --seeds $(SEEDS) --brief >/dev/null # bad input ends here, before the download
	@$(MAKE) --no-print-directory data
	@mkdir -p '$(OUTPUTS)'/slurm && exec 9>'$(OUTPUTS)'/slurm/.lock && flock 9 && \
	cells=$$($(GRID) $(RUNS) --seeds $(SEEDS) --slurm --todo) && \
	slurm/submit.sh '$(OUTPUTS)'/slurm "$$cells" $(REPORT) $(SBATCH) -- $(GIVEN)

status: setup
	@$(GRID) $(RUNS) --seeds $(SEEDS) --slurm

report: setup
	@set -o pipefail; $(BIN)/papermill notebooks/report.ipynb '$(REPORT_FOLDER)'/report.ipynb --no-progress-bar --log-level ERROR \
	  $(WHERE) $(if $(AUTHORS),-p authors "$(AUTHORS)") $(call papermill_arguments,$(filter-out train_images=%,$(SCHEDULE))) 2>&1 | { grep -v IPKernelApp || :; }
	@$(CIFARLIB) export '$(REPORT_FOLDER)'/report.ipynb

html pdf: setup
	@$(CIFARLIB) export $(if $(NB),'$(NB)') --to $@

bench: setup
	@set -o pipefail; mkdir -p '$(OUTPUTS)'/benchmark && \
	$(BIN)/papermill notebooks/benchmark.ipynb '$(OUTPUTS)'/benchmark/benchmark.ipynb --log-output --no-progress-bar \
	  $(WHERE) $(if $(DEVICE),-p device $(DEVICE)) 2>&1 | grep --line-buffered -vE '^(Executing|Ending) Cell |IPKernelApp|^$$'

# IMAGES= is a file or folder of images here; what is missing is said before the report is made
HANDIN = $(CIFARLIB) handin '$(NAME)' --run '$(RUN)' --output-folder '$(OUTPUTS)' $(filter-out --train-images=%,$(OPTIONS)) \
  $(if $(findstring command,$(origin SEED)),--seed '$(SEED)') $(if $(IMAGES),--images '$(IMAGES)') \
  $(if $(LAYOUT),--layout '$(LAYOUT)') $(if $(DATA),--data-folder '$(DATA)')
handin: setup
	@$(HANDIN) --check
	@mkdir -p '$(OUTPUTS)/handin/$(NAME)' && $(MAKE) --no-print-directory report REPORT_FOLDER='$(OUTPUTS)/handin/$(NAME)' \
	  AUTHORS='$(or $(AUTHORS),$(subst _, ,$(NAME)))'
	@$(HANDIN)

# the report as just executed, the train notebook as it made the fast recipe's record
notebooks: report
	@[ -f '$(OUTPUTS)/fast/seed0/train.ipynb' ] || $(MAKE) --no-print-directory train RUN=fast SEED=0
	@mkdir -p '$(OUTPUTS)'/notebooks && cp '$(OUTPUTS)'/report.ipynb '$(OUTPUTS)'/fast/seed0/train.ipynb '$(OUTPUTS)'/notebooks/
	@set -o pipefail; for name in explore whitening predict; do \
	  echo "== executing notebooks/$$name.ipynb"; \
	  $(BIN)/papermill notebooks/$$name.ipynb '$(OUTPUTS)'/notebooks/$$name.ipynb --no-progress-bar --log-level ERROR \
	    $(if $(DATA),-p data_folder '$(DATA)') 2>&1 | { grep -v IPKernelApp || :; } || exit 1; \
	done

lab: setup
	@$(BIN)/jupyter lab --ServerApp.root_dir='$(CURDIR)' $(LAB) notebooks/start.ipynb

lint: setup
	@$(BIN)/ruff check && $(BIN)/ruff format --check

test: lint
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
