# 笔墨: `make help` lists the targets.
# Everything is installed with plain pip into .venv, once, and again only when the project file or the pins change.

PYTHON   ?= python3
# More words for pip, for instance an index with another build of torch: make draw PIP_ARGS="--index-url ..."
PIP_ARGS ?=
BIN      ?= .venv/bin

# Taken as written, so that a prompt may hold any character; the shell sees it only as "$$PROMPT".
PROMPT ?= 红苹果，3D风格
MODEL  ?=
ARGS   ?=
override PROMPT := $(value PROMPT)
override MODEL := $(value MODEL)
export PROMPT MODEL

# Processes that share the tests, one a core unless told otherwise; 0 is none beside this one.
WORKERS ?= logical
SPREAD   = -n $(WORKERS) --dist worksteal

# Tests begin many processes: what those import is compiled once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

PINS := pyproject.toml constraints.txt

.PHONY: help draw serve bench test test-quick test-oldest coverage check docs index messages clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

draw: .venv/.core ## a picture in outputs/: make draw PROMPT="..." [MODEL=name] [ARGS="--seed 1"]
	@mkdir -p outputs
	@$(BIN)/bimo draw -o outputs $${MODEL:+-m "$$MODEL"} $(ARGS) -- "$$PROMPT"

serve: .venv/.serve ## the web page and the HTTP interface: make serve [ARGS="..."]
	@$(BIN)/bimo serve $(ARGS)

bench: .venv/.core ## seconds and memory on this machine: make bench [ARGS="..."]
	@$(BIN)/bimo bench $(ARGS)

test: .venv/.dev ## all tests, on every core: make test [ARGS="-k words"] [WORKERS=2]
	$(BIN)/python -m pytest -q $(SPREAD) $(ARGS)

test-quick: .venv/.dev ## the tests that take no seconds and no browser: what to run while writing
	$(BIN)/python -m pytest -q $(SPREAD) -m "not slow and not browser" $(ARGS)

test-oldest: .venv/.dev ## every recipe, folders and some families with the oldest versions that pyproject.toml allows, in build/oldest: minutes
	$(BIN)/python tools/oldest.py build/oldest $(ARGS)

coverage: .venv/.dev ## what of the package the tests reach, least first: make coverage [ARGS=tests/prompts]; pages in build/coverage
	$(BIN)/python -m pytest -q $(SPREAD) --cov --cov-report=term --cov-report=html $(ARGS)

check: .venv/.dev ## style, types, direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: .venv/.docs ## the documentation in both languages, into site/; nothing is fetched
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

index: .venv/.core ## write what `bimo list` shows, after recipes were changed
	$(BIN)/python -c "from bimo.hub.registry import INDEX, index; INDEX.write_text(index(), encoding='utf-8')"

messages: .venv/.dev ## the Chinese catalogue, after sentences were changed: fill in what it names, then again
	$(BIN)/python tools/catalogue.py

clean: ## remove the environment and every cache
	rm -rf .venv build dist site .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find bimo tests bench -type d -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bimo needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

# pip compiles what it installs file by file on one core, and this package not at all. On all of them, without the
# libraries' own tests, it is sooner done. Its status says nothing: a few libraries bring templates that are no Python.
.venv/.core: EXTRAS =
.venv/.serve: EXTRAS = [serve]
.venv/.dev: EXTRAS = [all,dev]
.venv/.docs: EXTRAS = [docs]
.venv/.core .venv/.serve .venv/.dev .venv/.docs: $(PINS) | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt $(PIP_ARGS) -e '.$(EXTRAS)'
	@.venv/bin/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib bimo || true
	@touch $@
