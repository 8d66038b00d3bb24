# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamp carries the interpreter's version, so that the environment is made anew for another PYTHON=.
STAMP := $(VENV)/.installed-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')

# Two processes, each with one thread of torch: the models of the tests are too small for more threads.
WORKERS := -n 2 --dist loadfile
# The lowest versions that pyproject.toml allows, in an environment of their own.
FLOORS := .venv-floors

.DEFAULT_GOAL := help
.PHONY: help install check docs format test test-all test-cuda test-floors demo bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## create .venv and install, when needed

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,docs,dev]'
	@touch $@

check: $(STAMP)  ## static checks: ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## the site in build/docs: no warning, no dead link, no undocumented public name
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --quiet --builder html docs build/docs
	$(BIN)/python docs/check_links.py build/docs

format: $(STAMP)  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(STAMP)  ## the fast test suite
	$(BIN)/python -m pytest $(WORKERS)

test-all: $(STAMP)  ## every test, the slow ones and the lowest versions too
	$(BIN)/python -m pytest -m '' -vv $(WORKERS)
	$(MAKE) test-floors

test-cuda: $(STAMP)  ## the tests that need a CUDA device
	CMDL_TEST_CUDA=1 $(BIN)/python -m pytest -m '' -rs

$(FLOORS)/.installed: pyproject.toml tests/floors.py
	$(PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python tests/floors.py > $(FLOORS)/constraints.txt
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(FLOORS)/constraints.txt \
		-e '.[all]' pytest pytest-xdist segmentation-models-pytorch peft
	@touch $@

test-floors: $(FLOORS)/.installed  ## tests of security, model and training on the lowest versions allowed
	$(FLOORS)/bin/python -m pytest -vv $(WORKERS) tests/security tests/models tests/training

demo: $(STAMP)  ## train with and without CMDL and compare: make demo [DATA=CAMVID WEIGHTS=FILE OUT=DIR]
	$(BIN)/cmdl demo $(if $(DATA),--data-dir "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(OUT),--output-dir "$(OUT)")

# The profiler measures memory; what it says meanwhile would stand between the rows of the tables.
bench: export KINETO_LOG_LEVEL = 10
bench: export TORCH_CPP_LOG_LEVEL = ERROR
bench: $(STAMP)  ## the performance harness; its last table is benchmarks/README.md
	$(BIN)/python benchmarks/learning_step.py
	$(BIN)/python benchmarks/learning_step.py --grid --repetitions 2
	$(BIN)/python benchmarks/aggregation.py
	$(BIN)/python benchmarks/losses.py --batch-size 2 --repetitions 3
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/assignment.py
	$(BIN)/python benchmarks/transforms.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/inference.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) $(FLOORS) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
