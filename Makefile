# make demo       a procedural town, a small model, its map of unseen ground, one HTML page (at most 5 minutes on 2 cores)
# make test       the test suite
# make notebooks  runs notebooks/ from top to bottom
# make docs       the documentation site: build/site/index.html
# make check      style, types, import rules, then the test suite
# make clean      removes the virtual environment and everything that was made
#
# All of them make .venv first, with the versions in constraints.txt.
#   PYTHON=python3.12                 another interpreter, 3.11 or newer
#   TORCH_INDEX=URL                   another package index to take torch from, such as the one with builds for the CPU
#   OUT=folder                        where the demo goes
#   ARGS="tests/cli -k info"          what pytest gets; -m 'not kills' leaves out what starts and ends processes

PYTHON      ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
                 $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
                 && echo $$p && break; done)
TORCH_INDEX ?=
OUT         ?= demo-out
ARGS        ?=
BIN         := .venv/bin
STAMP       := .venv/.installed
PIP         := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
               $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test notebooks docs static check clean
.DEFAULT_GOAL := test

demo: $(STAMP)
	@$(BIN)/terramorph demo --out $(OUT)

test: $(STAMP)
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:nbmake -n auto --dist worksteal $(ARGS)

notebooks: $(STAMP)
	@$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 -o timeout=900 notebooks

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

static: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted: run '$(BIN)/ruff format'."; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@told=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$told"; exit 1; }

check: static test

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "terramorph needs Python 3.11 or newer with the venv module, and none is on the PATH:" \
	  "install one (on Debian and Ubuntu: python3 python3-venv) or name one with 'make PYTHON=/path/to/python'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is" \
	  "$$($(PYTHON) --version 2>&1), and terramorph needs Python 3.11 or newer: name one with 'make PYTHON=python3.12'."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (once; a few minutes on a fresh machine) ..."
	@test -t 1 && quiet= || quiet=-qq; $(PIP) $$quiet setuptools && \
	  $(PIP) $$quiet --no-build-isolation -e '.[hub,onnx,openvino,cluster,s3,study,serve,mlflow,docs,test]'
	@touch $@

clean:
	rm -rf .venv build demo-out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache src/*.egg-info
