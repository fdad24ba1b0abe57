# FedRx: `make demo` on a fresh machine, `make test` before a commit.
#   PYTHON=python3.12 make demo     another interpreter, 3.11 or newer
#   PIP_FLAGS='--index-url …' make  a mirror, or another build of torch
#   PYTEST_FLAGS= make test         one test after another; by default a file of tests each worker

PYTHON ?= python3
PIP_FLAGS ?=
# One worker more than cores: tests of live processes mostly wait. tests/conftest.py orders the files.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST_FLAGS ?= -n $(WORKERS) --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
STAMP := .venv/.installed

# Nothing phones home, in no target.
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export NO_MKDOCS_2_WARNING = 1

.PHONY: demo test reference docs sbom bench clean

demo: $(STAMP)
	$(BIN)/fedrx simulate

# pytest runs last: its closing line is the last line of the output.
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# The shipped JSON Schemas, and the pages that describe the files.
reference: $(STAMP)
	$(BIN)/python docs/generate_reference.py

# The site, in site/; a broken link is an error.
docs: $(STAMP)
	$(BIN)/python -m mkdocs build --strict --clean

# What an installed FedRx consists of, and under which licences: dist/fedrx-*.
sbom: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev,sbom]'
	mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/fedrx-sbom.cdx.json $(BIN)/python
	$(BIN)/pip-licenses --format=csv --with-urls --output-file=dist/fedrx-licences.csv

bench: $(STAMP)
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build site

# torch goes first, so that its pinned build is settled before anything else asks for it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "FedRx needs Python 3.11 or newer: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $@
