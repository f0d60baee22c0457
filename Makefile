# The graph from params/ to outputs/. `python -m cifarlib COMMAND --help` explains the options.
#: make train RUN=fast          train a run (also SEED= EPOCHS= STOP= TRAIN_IMAGES= DEVICE= OUTPUTS=)
#: make predict IMAGES=FOLDER   classify images of your own (also RUN= SEEDS= VIEWS=1)
#: make report                  outputs/report.html and report.pdf from all records (also AUTHORS=)
#: make lab                     open JupyterLab on the first notebook (also LAB=, its options)
#: make status                  which runs are done, running, missing (also RUNS= SEEDS=)
#: make table RUNS="fast*"      train what is missing (also SEEDS= EPOCHS= STOP=; -j2: two at once)
#: make slurm SBATCH=--gpus=1   the same as one Slurm array (also THROTTLE=, runs at a time)
#: make handin NAME=First_Last  one zip: predictions of IMAGES=, code, report (also RUN= SEEDS=)
#: make notebooks               executed copies of the notebooks, in outputs/notebooks
#: make bench                   time the training loop beside others (also DEVICE=)
#: make setup, data, test, lint the environment, CIFAR-10, what a change has to pass, its style
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
SETUP := $(VENV)/.installed
BIN := $(VENV)/bin
OUTPUTS := outputs
REPORT := $(OUTPUTS)
$(foreach v,AUTHORS SBATCH THROTTLE,$(eval $v :=))
# of the command line, not of the environment; a mistyped or misplaced name would be dropped: EPOCH=10 train 200 epochs
GIVEN := $(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v))
GOALS := $(MAKECMDGOALS) $(if $(filter REPORT,$(GIVEN)),handin)# handin has another make make its report
for = $(if $(filter $(1),$(GOALS)),$(2))
TAKEN := PYTHON VENV SETUP BIN DATA OUTPUTS $(call for,train,RUN SEED) $(call for,table status slurm,RUNS SEEDS) \
  $(call for,predict handin,RUN SEEDS IMAGES) $(call for,predict,VIEWS) $(call for,handin,NAME) $(call for,lab,LAB) \
  $(call for,train table status slurm,EPOCHS STOP TRAIN_IMAGES) $(call for,train table slurm predict bench,DEVICE) \
  $(call for,report notebooks handin,AUTHORS REPORT) $(call for,slurm,SBATCH THROTTLE) $(call for,run/%,$(GIVEN))
$(foreach v,$(filter-out $(TAKEN),$(GIVEN)),$(error make $(MAKECMDGOALS) takes no $v: `make` lists what can be given))
$(if $(filter ~%,$(OUTPUTS) $(REPORT)),$(error OUTPUTS, REPORT: give $$HOME instead of ~))
# make exports what is given: RUN=7 becomes --RUN "$RUN" (for papermill -r run "$RUN"), whatever characters it holds
options = $(foreach v,$(filter $(GIVEN),$(1)),$(if $($v),--$v "$$$v"))
parameter = $(if $(filter $(GIVEN),$(1)),-r $(2) "$$$(1)")
export OUTPUTS REPORT AUTHORS SBATCH THROTTLE
unexport JUPYTER_PATH
CIFARLIB := "$(BIN)/python" -m cifarlib
TRAIN := $(CIFARLIB) train $(call options,EPOCHS STOP TRAIN_IMAGES DEVICE DATA OUTPUTS)
STATUS := $(CIFARLIB) status $(call options,RUNS SEEDS EPOCHS STOP TRAIN_IMAGES OUTPUTS)
RECORDS := $(call parameter,OUTPUTS,output_folder)# for the notebooks that read or leave some
PAPERMILL := "$(BIN)/papermill" -k python3 $(call parameter,DATA,data_folder)
EXPORT := "$(BIN)/jupyter" nbconvert --to
HANDIN := $(CIFARLIB) handin $(call options,NAME RUN SEEDS IMAGES OUTPUTS)
.PHONY: help setup data train table status slurm report notebooks predict handin bench lab test lint
help:; @sed -n 's/^#: //p' Makefile
setup: $(SETUP)
$(VENV)/.installed: pyproject.toml
	@echo "== making the environment $(VENV): PyTorch, JupyterLab and the rest, up to 7 GB"
	@$(PYTHON) -m venv "$(VENV)" && "$(BIN)/python" -m pip install --quiet -e '.[test]' && touch $@
data: setup; @$(CIFARLIB) data $(call options,DATA)
train: setup; @$(TRAIN) $(call options,RUN SEED)
status: setup; @$(STATUS)
# one target a run and seed: a failure stops no other, and -j2 trains two
table: setup
	@runs=$$($(STATUS) --todo) || exit; set -- $$(sed 's|[[:blank:]].*||; s|^.|run/&|' <<<"$$runs"); failed=0; \
	[ $$# = 0 ] || $(MAKE) --no-print-directory -k "$$@" || failed=$$?; $(STATUS) && exit $$failed
run/%:
	@$(TRAIN) --unless-done --run $(*D) --seed $(*F)
slurm: setup
	@command -v sbatch >/dev/null || { echo "error: no sbatch on this machine: make table trains the same runs" >&2; exit 1; }
	@runs=$$($(STATUS) --todo) && $(CIFARLIB) data $(call options,DATA) && slurm/task.sh submit "$$runs" $(TRAIN)
predict: setup; @$(CIFARLIB) predict $(call options,IMAGES RUN SEEDS VIEWS DEVICE OUTPUTS)
report: setup
	@mkdir -p "$$REPORT" && $(PAPERMILL) $(RECORDS) $(call parameter,AUTHORS,authors) notebooks/report.ipynb "$$REPORT/report.ipynb"
	@for to in article paper; do $(EXPORT) $$to --output-dir "$$REPORT/.new" "$$REPORT/report.ipynb" || exit; done; mv "$$REPORT"/.new/* "$$REPORT" && rmdir "$$REPORT/.new"
# with this variable, which Jupyter's server sets, train shows a finished run as it is
notebooks: report
	@mkdir -p "$$OUTPUTS/notebooks" && cp "$$REPORT/report.ipynb" "$$OUTPUTS/notebooks"
	@$(PAPERMILL) notebooks/explore.ipynb "$$OUTPUTS/notebooks/explore.ipynb"
	@export JPY_SESSION_NAME=make; for name in whitening train predict; do $(PAPERMILL) $(RECORDS) notebooks/$$name.ipynb "$$OUTPUTS/notebooks/$$name.ipynb" || exit; done
handin: setup
	@$(HANDIN) --check
	@$(MAKE) --no-print-directory report REPORT="$$OUTPUTS/handin/$$NAME" AUTHORS="$${AUTHORS:-$${NAME//_/ }}"
	@$(EXPORT) paper_tex "$$OUTPUTS/handin/$$NAME/report.ipynb" --output-dir "$$OUTPUTS/handin/$$NAME/tex"
	@$(HANDIN)
bench: setup
	@mkdir -p "$$OUTPUTS/benchmark" && $(PAPERMILL) $(RECORDS) $(call parameter,DEVICE,device) notebooks/benchmark.ipynb "$$OUTPUTS/benchmark/benchmark.ipynb"
lab: setup
	@env $(patsubst %,-u %,$(GIVEN) OUTPUTS REPORT AUTHORS SBATCH THROTTLE MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES) JUPYTER_CONFIG_PATH="$(CURDIR)/cifarlib/report" "$(BIN)/jupyter" lab --ServerApp.root_dir="$(CURDIR)" $(LAB) notebooks/start.ipynb
lint: setup; @"$(BIN)/ruff" check && "$(BIN)/ruff" format --check
test: lint; @"$(BIN)/python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
