# Everything from a fresh clone. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):/usr/local/sbin:/usr/sbin:/sbin:$(PATH)
export PYTHONUNBUFFERED := 1
# Paths and standard streams are UTF-8, whatever the locale.
export PYTHONUTF8 := 1
# Each process that is started would compile the package again, which takes a third of a second.
export PYTHONDONTWRITEBYTECODE :=
MAKEFLAGS += --no-print-directory

DEMO_IMAGES := images/starlette-1147.json images/logstats.json
BENCH_TASKS := starlette-1147 click-2072 python-dotenv-287 sqlparse-562
WORKFLOW := Snakefile workflow
# Tests of times that the kernel measures: they have the machine for themselves.
MEASURED := $(addprefix tests/integration/test_,limits.py live_replay.py sampler_container.py)
# The others, in parts of which three run at once, for they often wait; the longest first.
define PARTS
tests/workflow/test_rebuild_matrix.py tests/workflow/test_paper.py
tests/integration $(MEASURED:%=--ignore=%)
tests/workflow/test_dag.py tests/workflow/test_locale.py
tests/hostile
tests/workflow/test_replay_sweep.py tests/workflow/test_workflow_faults.py
tests/unit --ignore=tests/unit/analysis
tests/unit/analysis
tests/cluster/test_slurm.py
--engine docker tests/integration/test_outcomes.py tests/integration/test_docker_demo.py
endef
export PARTS

.DEFAULT_GOAL := help
.PHONY: help demo test setup system system-env python env agent first-image images bench-images lock lint bench benchmark test-unit test-containers test-workflow test-docker test-cluster test-vm test-hostile test-storm fuzz mutants requirements clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

demo: setup lock ## everything: set-up, the demo's runs, its figures
	snakemake --cores all --configfile config/demo.yaml
	@echo "The figures are in $(CURDIR)/results/figures:"
	@ls results/figures/*.pdf

benchmark: setup bench-images ## the small benchmark (config/bench.yaml): set-up, images, runs, figures
	snakemake --quiet --cores 1 lock --configfile config/bench.yaml
	snakemake --cores all --configfile config/bench.yaml
	@echo "The figures are in $(CURDIR)/results/bench/figures:"
	@ls results/bench/figures/*.pdf

test: setup ## everything: set-up, lint, all tests
	@sh tools/system.sh test
	@python tools/fetch_atif_model.py
	@$(MAKE) lint
	pytest $(MEASURED)
	pytest --engine docker tests/integration/test_limits.py \
	  tests/integration/test_images.py::test_a_health_check_is_in_no_number_of_the_agents
	@mkdir -p build
	@echo "$$PARTS" | xargs -P 3 -I PART sh -c \
	  'pytest PART > build/tests.$$$$ 2>&1; code=$$?; cat build/tests.$$$$; rm build/tests.$$$$; exit $$code'

setup: system # what demo and test share; quick when nothing is missing
	@$(MAKE) --jobs 2 agent first-image
	@$(MAKE) images

system: ## system packages, by apt
	@sh tools/system.sh

system-env: # what the virtual environment needs of the system: no engine
	@sh tools/system.sh env

python: system-env
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is not Python 3.11 or later; name one that is: make PYTHON=..." >&2; \
	  exit 1; }

env: python ## the virtual environment .venv, from requirements.lock; needs no engine
	@sh tools/env.sh $(PYTHON)

agent: env ## the agent binary, by hash
	@python tools/fetch_agent.py

# They need no package, so that they are made beside `env`, which takes as long.
first-image: system python ## the base of all images, and the image of logstats
	@PYTHONPATH=src $(PYTHON) demo/build.py logstats

images: env first-image ## the demo's task images, as OCI archives
	@python demo/build.py

bench-images: system env ## the small benchmark's task images
	@python demo/build.py $(BENCH_TASKS)

lock: images ## write the digests of the demo's images to config/images.lock.yaml
	@for digest in $$(sed -n 's/.*"digest": "\(.*\)".*/\1/p' $(DEMO_IMAGES)); do \
	  grep -q "$$digest" config/images.lock.yaml 2>/dev/null || missing=1; \
	done; [ -z "$${missing:-}" ] || snakemake --quiet --cores 1 lock --configfile config/demo.yaml

lint: env ## ruff, mypy, layers of packages, spelling, encodings, snakefmt, snakemake --lint
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache --no-logo
	git ls-files -z | xargs -0 codespell
	python tools/check_encodings.py
	snakefmt --check $(WORKFLOW)
	snakemake --lint

bench: setup ## the benchmarks of docs/performance.md
	@for script in benchmarks/*.py; do echo "$$script"; python "$$script" || exit 1; done

test-unit: env ## the quick tests that need no container engine, a minute
	@python tools/fetch_atif_model.py
	pytest -m "not slow" --numprocesses 2 --dist loadfile tests/unit

test-containers: setup ## real containers, the real agent, and what they leave, under Podman
	@sh tools/system.sh test
	pytest tests/integration

test-workflow: setup ## plans, the rebuild matrix, replayed and broken sweeps
	@sh tools/system.sh test
	pytest tests/workflow

test-docker: setup ## all integration tests under a Docker daemon of their own, as root
	@sh tools/system.sh test
	pytest --engine docker --whole-demo tests/integration

test-cluster: setup ## sweeps through profiles/slurm on a real Slurm of three nodes, some minutes
	@sh tools/system.sh test
	pytest tests/cluster

test-vm: setup ## the integration tests in an emulated machine with cgroup v2, hours (tools/test-vm.sh)
	@sh tools/test-vm.sh

test-hostile: setup ## all that hostile agents, images and kills are tried with
	@sh tools/system.sh test
	pytest tests/hostile

test-storm: setup ## 200 runs whose processes are killed and stopped at random, an hour
	@sh tools/system.sh test
	AGENTSWEEP_STORM=$${AGENTSWEEP_STORM:-200} pytest -s tests/hostile/test_storm.py

fuzz: env ## changed bytes for every reader of what others wrote (docs/testing.md), an hour
	nice python tests/fuzz/fuzz_driver.py $(TARGETS)

mutants: env ## break the code on purpose and list what no test sees (docs/testing.md), an hour
	nice python tools/mutants.py $(MODULES)

requirements: ## write requirements.lock and the demo's again, with the newest versions
	@sh tools/requirements.sh $(PYTHON)

clean: ## remove caches and results; the run store, images, agent and environment stay
	rm -rf results logs .snakemake build .pytest_cache .ruff_cache
