# make bench        install, then measure the claims on the embedded aligned models, one base, a group of them and the weights of
#                   a family; ends with what was found at a glance, the table of verdicts, and a report to open in a browser
# make bench-all    the same on every embedded model: the other bases, those tuned for safety and the fine-tunes too
# make test         install, then run the tests of the instrument itself
# make docs         install, then build the documentation into site/; a link that leads nowhere is an error
# make lint         install, then check style, types and the direction of imports
# make performance  install, then time the capture and the report of many models
# make zoo          install, then train the embedded models again into ./zoo (about an hour)
# make clean        remove what the targets made, .venv included
#
# PYTHON=python3.12 chooses the interpreter of a new .venv; ARGS="-k tara" passes options on to pytest.

PYTHON ?= python3
RESULTS ?= results
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
DECLARED := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help bench bench-all test docs lint performance zoo clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# One thread a worker: more of them than cores slow small matrix products down.
FAMILIES := llama-d64 llama-d80 neox-d64 neox-d96
BENCH := OMP_NUM_THREADS=1 $(PYTEST) benchmarks --results $(RESULTS) -q -n $(JOBS)

# Whatever the run returns, what it has measured is shown.
REPORT := status=$$?; test ! -f $(RESULTS)/records.jsonl || $(BIN)/geometry-bench report $(RESULTS) --out $(RESULTS)/report; \
	exit $$status

bench: $(VENV)/.installed-test
	$(BENCH) --model zoo/llama-d80/base $(foreach family,$(FAMILIES),--model zoo/$(family)/aligned) \
		--group zoo/groups/aligned --weights zoo/llama-d80 $(ARGS); $(REPORT)

bench-all: $(VENV)/.installed-test
	$(BENCH) $(ARGS); $(REPORT)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(PYTEST) tests -q -n $(JOBS) $(ARGS)

# Not --quiet, which would hide the warnings that strict counts.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

performance: $(VENV)/.installed-test
	$(PYTEST) benchmarks/performance -q $(ARGS)

zoo: $(VENV)/.installed-test
	$(BIN)/python fixtures/zoo/build.py --out zoo

clean:
	rm -rf $(VENV) $(RESULTS) build dist site .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

# torch goes first and alone: everything else then finds it there and leaves its build as it is.
$(VENV)/.installed-test: $(DECLARED)
	@$(PYTHON) -c 'import sys; sys.exit("geometry-bench needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(PIP) -e '.[test,lint]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-test
	$(PIP) -e '.[test,docs]'
	@touch $@
