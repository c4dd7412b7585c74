# `make` lists the targets. Make only starts the work: the run keys in results/ decide which runs are complete.
PYTHON   ?= python3
PROFILE  ?= cpu
PARAMS   := $(sort $(wildcard params/*/*.yaml))
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
GOLDEN   := notebooks/quickstart.ipynb notebooks/paper_figures.ipynb notebooks/claims.ipynb notebooks/dynamic_pruning.ipynb notebooks/dynamic_summary.ipynb
STAMPED  := pyproject.toml README.md CITATION.cff $(NOTEBOOKS)
VENV     := .venv
BIN      := $(VENV)/bin
READY    := $(VENV)/ready
# TORCH=cpu installs the CPU build of torch from a package index that has it (INDEX or PIP_EXTRA_INDEX_URL)
SIZE      = $(if $(filter cpu,$(TORCH)),the CPU build of torch; some minutes,6.5 GB with torch and its CUDA libraries, some minutes (TORCH=cpu leaves those out))
RUN       = $(BIN)/lth run --profile $(PROFILE) $(if $(FORCE),--force) $(if $(TIME_LIMIT),--time-limit $(TIME_LIMIT))
PARALLEL := -n auto --maxprocesses 4  # each process imports torch, half a gigabyte
NBVAL    := $(BIN)/pytest $(PARALLEL) --dist loadfile --nbval-lax --nbval-cell-timeout=600 -p no:cacheprovider
STRIP    := $(BIN)/nbstripout --keep-output --keep-count --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup quickstart all lenet dynamic structure list figures scorecard queue notebooks test nbval rooms lint faults mutants bench docs badges clean

help:  ## print this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo "  options: PROFILE=smoke|cpu|paper (now $(PROFILE)), TIME_LIMIT=seconds, YES=1, FORCE=1 (throws results away), TORCH=cpu"

setup: $(READY)  ## create .venv and install everything in it, once (the other targets do this by themselves)

$(READY): requirements.txt requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
		{ echo "make: $(PYTHON) is older than 3.11; give another one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test "$(TORCH)" != cpu || test -n "$(INDEX)$$PIP_EXTRA_INDEX_URL$$PIP_INDEX_URL" || \
		{ echo "make: TORCH=cpu needs an index of CPU builds: give INDEX=its address, or set PIP_EXTRA_INDEX_URL" >&2; exit 2; }
	@echo "make: making $(VENV), once: $(SIZE)"
	$(PYTHON) -m venv $(VENV)
	@sed -E $(if $(filter cpu,$(TORCH)),'s/^(torch|torchvision)==.*/&+cpu/','') requirements.lock > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet $(if $(INDEX),--extra-index-url $(INDEX)) --constraint $(VENV)/constraints.txt --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

quickstart: $(READY)  ## find a winning ticket on digits, in a minute or two
	@$(BIN)/lth notebook notebooks/quickstart.ipynb

all: $(READY)  ## print the plan and its estimated time, ask for confirmation (unless YES=1), then run all unfinished experiments
	@$(RUN) --ask $(if $(YES),--yes) $(PARAMS)

lenet: $(READY)  ## find winning tickets of LeNet on MNIST
	$(RUN) params/iterative_pruning/lenet_mnist.yaml

dynamic: $(READY)  ## run all unfinished experiments of dynamic pruning
	$(RUN) $(wildcard params/dynamic_pruning/*.yaml)

structure: PROFILE = paper
structure: $(READY)  ## run the studies of LeNet's tickets on MNIST (what they look like, whether they agree, why they win): tables and notebooks
	$(RUN) $(foreach study,ticket_structure ticket_similarity mask_transfer deconstructing \
		rewinding_and_connectivity pruning_at_init mask_prediction,$(filter-out %_fashion.yaml,$(wildcard params/$(study)/lenet*.yaml)))

list: $(READY)  ## list every study: what is complete, and how long the rest would take here
	@$(BIN)/lth list

figures: $(READY)  ## redraw figures/ from the tables in results/; no training
	@$(BIN)/lth figures

scorecard: $(READY)  ## grade the paper's claims from the tables: writes results/claims.csv, results/README.md, README.md
	@$(BIN)/lth scorecard --readme

queue: $(READY)  ## run all unfinished experiments in the order of params/QUEUE.yaml (PACK=file.tar.gz packs the tables)
	@$(BIN)/lth queue --profile $(PROFILE) $(if $(TIME_LIMIT),--time-limit $(TIME_LIMIT)) $(if $(PACK),--pack $(PACK))

notebooks: $(READY)  ## execute every notebook with its default parameters, in place
	@rm -rf results/notebook build/notebooks && mkdir -p build/notebooks
	@for notebook in $(NOTEBOOKS); do \
		$(BIN)/lth notebook $$notebook --to build/$$notebook >/dev/null && $(STRIP) build/$$notebook && \
		mv build/$$notebook $$notebook && echo "$$notebook: executed" || exit 1; \
	done

test: $(READY)  ## run every test, offline: pytest, then nbval on the golden notebooks
	$(BIN)/pytest $(PARALLEL) --dist worksteal
	LTH_PLAIN=1 LTH_RESULTS=$$(mktemp -d) $(NBVAL) $(GOLDEN)

nbval: $(READY)  ## execute every notebook again and check its outputs with nbval
	LTH_PLAIN=1 LTH_RESULTS=$$(mktemp -d) $(NBVAL) $(NOTEBOOKS)

rooms: $(READY)  ## print the rooms of lthcore in the order of reading and of imports
	@$(BIN)/python tests/test_rooms.py

lint: $(READY)  ## check code and notebooks with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

faults: $(READY)  ## kill runs, fill the disk, damage files: check that no results are lost; writes results/faults.json
	@$(BIN)/python tests/faults.py

mutants: $(READY)  ## change the code in one place at a time: which changes do the tests miss? takes hours (ROOM=masks for one room)
	@$(BIN)/python -m pip install --quiet --requirement tests/requirements-mutants.txt
	OMP_NUM_THREADS=1 nice $(BIN)/mutmut run --max-children 1 $(if $(ROOM),"lthcore.$(ROOM).*")
	$(BIN)/mutmut results

bench: $(READY)  ## run every benchmark that has what it needs; writes results/benchmarks/
	@for name in protocol roofline cohort sparse convolutions estimates scaling queue_ray resnet_epoch compaction figure_cost; do \
		echo "== $$name"; status=0; $(BIN)/python benchmarks/$$name.py || status=$$?; \
		case $$status in 0) ;; 77) echo "skipped";; *) exit 1;; esac; \
	done

docs: $(READY)  ## build the documentation into build/docs; warnings are errors
	@$(BIN)/python -m pip install --quiet -c requirements.lock -c docs/requirements.lock -r docs/requirements.txt
	@$(BIN)/python -m sphinx -q -W --keep-going -j auto docs build/docs
	@echo "build/docs/index.html: the documentation"

badges:  ## write the repository's address into all files that have it: make badges REPO=owner/name
	@test -n "$(REPO)" || { echo "make: say which repository: make badges REPO=owner/name" >&2; exit 2; }
	@old=$$(sed -n 's|^Repository = "https://github.com/\(.*\)"|\1|p' pyproject.toml) && \
	sed -i.old -E "s#(github(\.com)?)/$$old#\1/$(REPO)#g" $(STAMPED) && \
	rm -f $(addsuffix .old,$(STAMPED)) && echo "stamped $(REPO) in place of $$old"

clean:  ## remove .venv and everything that was built; results and figures stay
	rm -rf $(VENV) build docs/figures docs/notebooks docs/reference/api mutants .pytest_cache .ruff_cache *.egg-info
	find lthcore tests benchmarks -name __pycache__ -type d -exec rm -rf {} +
