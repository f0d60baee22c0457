# The graph from params/ to outputs/. `make` alone lists what there is.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
# in an environment of your own: make ... SETUP= BIN="$CONDA_PREFIX/bin"
SETUP ?= $(VENV)/.installed
BIN ?= $(VENV)/bin
OUTPUTS ?= outputs
RUNS ?= 1 2 3 4 5 6 7 run7-mean run6-sum run4-reflect run4-nesterov run6-image-channel run7-preprocessed
SEEDS ?= 0
REPORT_FOLDER ?= $(OUTPUTS)
# the target that follows the runs on Slurm
REPORT ?= report

# a mistyped name would be dropped, and EPOCH=10 train 200 epochs
KNOWN := PYTHON VENV BIN SETUP OUTPUTS DATA DEVICE RUN RUNS SEED SEEDS EPOCHS STOP IMAGES NB NAME LAYOUT AUTHORS MINUTES \
  SBATCH THROTTLE LAB REPORT REPORT_FOLDER SHELL MAKEFLAGS
UNKNOWN := $(sort $(filter-out $(KNOWN),$(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v))))
$(if $(UNKNOWN),$(error there is no variable $(UNKNOWN): `make` lists what can be given))

# quoted for the shell; each item of a list, which commas may separate, too
quote = '$(subst ','\'',$(1))'
comma := ,
list = $(foreach item,$(subst $(comma), ,$(1)),$(call quote,$(item)))
# a list given on the command line, as an option; without it the command chooses, not the Makefile
list_option = $(if $(findstring command,$(origin $(1))),--$(2) $(call list,$($(1))))
# where the variable $(1) is given: an option of a command, a parameter of a notebook, and one that is text
option = $(if $($(1)),--$(2)=$(call quote,$($(1))))
parameter = $(if $($(1)),-p $(2) $(call quote,$($(1))))
text = $(if $($(1)),-r $(2) $(call quote,$($(1))))
path = $(call quote,$(patsubst ~/%,$(HOME)/%,$(1)))
FOLDER := $(call path,$(OUTPUTS))
OUTPUT := $(if $(filter-out file,$(origin OUTPUTS)),-r output_folder $(FOLDER))
# what is not given holds as a notebook's own parameters cell has it
WHERE := $(OUTPUT) $(call text,DATA,data_folder)
SCHEDULE := $(call parameter,EPOCHS,epochs) $(call parameter,STOP,stop_epoch) $(call parameter,IMAGES,train_images)
CIFARLIB := $(BIN)/python -m cifarlib
TRAIN := $(CIFARLIB) train $(WHERE) $(SCHEDULE) $(call text,DEVICE,device)
# a run of a grid: nothing that decides its record is left to the cell
EXACTLY := $(foreach name,$(if $(EPOCHS),,epochs) $(if $(STOP),,stop_epoch) $(if $(IMAGES),,train_images) \
  $(if $(OUTPUT),,output_folder),-p $(name) None) -p precision auto -p deterministic False -p capture True -p resume True
GRID := $(CIFARLIB) status $(call option,EPOCHS,epochs) $(call option,STOP,stop-epoch) $(call option,IMAGES,train-images) \
  --output-folder $(FOLDER)
WHOLE_GRID := $(GRID) $(call list,$(RUNS)) --seeds $(call list,$(SEEDS))
# what was given on the command line, as the tasks of `make slurm` need it again
GIVEN = $(foreach v,PYTHON VENV BIN OUTPUTS RUNS SEEDS EPOCHS STOP IMAGES DEVICE DATA AUTHORS,\
  $(if $(findstring command,$(origin $v)),$(call quote,$v=$($v))))

.PHONY: help setup data train table slurm status report html pdf tex handin notebooks bench gpu lab test lint
help:
	@echo "make train RUN=7 EPOCHS=10        train a run of Table 1 (also SEED= STOP= IMAGES= DEVICE= DATA= OUTPUTS=)"
	@echo 'make table SEEDS="0 1" EPOCHS=8   train what is missing of Table 1 and its variants (also RUNS=)'
	@echo 'make slurm SBATCH="--gpus=1"      the same grid as one Slurm array, the report after it (also THROTTLE=, runs at once)'
	@echo "make status                       what of the same grid is done, without training, and what Slurm says of it"
	@echo "make report                       outputs/report.html and report.pdf from the records (also AUTHORS= EPOCHS= STOP= OUTPUTS= DATA=)"
	@echo "make html NB=..., make pdf NB=... any executed notebook as one HTML file, as a typeset PDF"
	@echo "make tex                          the report as LaTeX source with its figures, in outputs/tex (pdflatex compiles it)"
	@echo "make handin NAME=First_Last RUN=7 one zip: predictions of IMAGES=..., code, network, report, notebooks (also SEED= STOP= LAYOUT=)"
	@echo "make notebooks                    executed copies of the notebooks in outputs/notebooks, for readers without a kernel"
	@echo "make lab                          open JupyterLab on notebooks/start.ipynb (also LAB=, options of jupyter lab)"
	@echo "make bench                        time the training loop beside other loops and the matrix rate (also DEVICE=)"
	@echo "make gpu MINUTES=25               on a GPU: its tests, a short run of everything, the benchmark, then records (also RUNS= SEEDS=)"
	@echo "make test                         lint and tests"
	@echo "make data                         fetch and verify CIFAR-10"

setup: $(SETUP)
	@:
$(VENV)/.installed: pyproject.toml
	@echo "== making the environment $(VENV): PyTorch, JupyterLab and the rest, up to 7 GB"
	@$(PYTHON) -c 'import sys; sys.exit("error: Python %d.%d is too old, 3.10 or newer is needed: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@

data: setup
	@$(CIFARLIB) data $(if $(DATA),$(call quote,$(DATA)))

# RUN= SEED= EPOCHS= STOP= IMAGES= where given, else what the parameters cell of notebooks/train.ipynb says
train: setup
	@$(TRAIN) $(call parameter,RUN,run) $(call parameter,SEED,seed)

# one target a run and seed, so that make keeps going past a failure; papermill resumes what was begun
table: setup
	@set -o pipefail; cells=$$($(WHOLE_GRID) --todo | sed 's|^|cell/|') && $(WHOLE_GRID) && \
	{ [ -z "$$cells" ] || $(MAKE) --no-print-directory --keep-going $$cells; failed=$$?; \
	  echo "== the grid in" $(FOLDER); $(WHOLE_GRID) && exit $$failed; }
cell/%:
	@echo "== grid: $$($(WHOLE_GRID) --brief)"
	@todo=$$($(GRID) $(*D) --seeds $(*F) --wait --todo) && { [ -z "$$todo" ] || $(TRAIN) $(EXACTLY) -p run $(*D) -p seed $(*F); }

# environment and data first, or every task would make them; one submission at a time, or both would find nothing queued
slurm:
	@command -v sbatch >/dev/null || { echo "error: no sbatch on this machine: make table trains the same grid without Slurm" >&2; exit 1; }
	@$(MAKE) --no-print-directory setup
	@$(WHOLE_GRID) --brief >/dev/null # bad input ends here, before the download
	@$(MAKE) --no-print-directory data
	@mkdir -p $(FOLDER)/slurm && exec 9>$(FOLDER)/slurm/.lock && flock 9 && \
	cells=$$($(WHOLE_GRID) --slurm --todo) && \
	slurm/submit.sh $(FOLDER)/slurm "$$cells" $(REPORT) $(call quote,$(SBATCH)) $(GIVEN)

status: setup
	@$(WHOLE_GRID) --slurm

report: setup
	@$(CIFARLIB) execute notebooks/report.ipynb $(call path,$(REPORT_FOLDER))/report.ipynb $(WHERE) $(call text,AUTHORS,authors) \
	  $(call parameter,EPOCHS,epochs) $(call parameter,STOP,stop_epoch)
	@$(CIFARLIB) export $(call path,$(REPORT_FOLDER))/report.ipynb

html pdf: setup
	@$(if $(NB),,echo "error: make $@ needs a notebook: make $@ NB=outputs/notebooks/train.ipynb" >&2; exit 1)
	@$(CIFARLIB) export $(call quote,$(NB)) --to $(if $(filter pdf,$@),paper,article)

tex: report
	@$(CIFARLIB) export $(call path,$(REPORT_FOLDER))/report.ipynb --to paper_tex --folder $(call path,$(REPORT_FOLDER))/tex

bench: setup
	@$(CIFARLIB) execute --show notebooks/benchmark.ipynb $(FOLDER)/benchmark/benchmark.ipynb $(WHERE) $(call text,DEVICE,device)

gpu: setup
	@$(CIFARLIB) gpu $(call quote,$(or $(MINUTES),25)) --output-folder $(FOLDER) $(call option,DATA,data-folder) \
	  $(call option,DEVICE,device) $(call list_option,RUNS,runs) $(call list_option,SEEDS,seeds) \
	  $(call option,EPOCHS,epochs) $(call option,STOP,stop-epoch) $(call option,IMAGES,train-images)

# IMAGES= is a file or folder of images here; what is missing is said before the report is made
HANDIN = $(CIFARLIB) handin $(call quote,$(NAME)) --output-folder $(FOLDER) $(call option,RUN,run) $(call option,SEED,seed) \
  $(call option,EPOCHS,epochs) $(call option,STOP,stop-epoch) $(call option,IMAGES,images) $(call option,LAYOUT,layout) \
  $(call option,DATA,data-folder)
handin: setup
	@$(HANDIN) --check
	@$(MAKE) --no-print-directory tex REPORT_FOLDER=$(call path,$(OUTPUTS)/handin/$(NAME)) \
	  AUTHORS=$(call quote,$(or $(AUTHORS),$(subst _, ,$(NAME))))
	@$(HANDIN)

# the report as just executed, the train notebook as it made the fast recipe's record
notebooks: report
	@[ -f $(FOLDER)/fast/seed0/train.ipynb ] || $(TRAIN) $(EXACTLY) -p run fast -p seed 0
	@mkdir -p $(FOLDER)/notebooks && cp $(FOLDER)/report.ipynb $(FOLDER)/fast/seed0/train.ipynb $(FOLDER)/notebooks/
	@for name in explore whitening predict; do \
	  echo "== executing notebooks/$$name.ipynb"; \
	  $(CIFARLIB) execute notebooks/$$name.ipynb $(FOLDER)/notebooks/$$name.ipynb $(call text,DATA,data_folder) || exit 1; \
	done

lab: setup
	@JUPYTER_CONFIG_PATH=$(call quote,$(CURDIR)/cifarlib/report) $(BIN)/jupyter lab --ServerApp.root_dir=$(call quote,$(CURDIR)) $(LAB) notebooks/start.ipynb

lint: setup
	@$(BIN)/ruff check && $(BIN)/ruff format --check

test: lint
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
