# The two commands of a newcomer: make train, make test. Both set up .venv first.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
# Python compiles what it imports, a small part of what is installed
PIP := $(BIN)/pip install -q --no-compile
# an outer Python's own torch (a GPU build, say) is kept; else the pinned one is installed
HAS_TORCH := $(shell $(PYTHON) -c "import torch" 2>/dev/null && echo --system-site-packages)
PINS := $(if $(HAS_TORCH),<(grep -v '^torch==' constraints.txt),constraints.txt)
# whole files to a process, so that what they train once is trained once
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# what `make ui` serves: weights that are installed, or a run's folder
RUN ?= quick

.PHONY: train test test-all test-rest lint pytest docs clean setup setup-all ui dist \
	test-wheel

setup: .venv/requirements

setup-all: .venv/requirements-all

.venv/bin/python:
	$(PYTHON) -m venv $(HAS_TORCH) .venv

.venv/requirements: constraints.txt pyproject.toml .venv/bin/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) -c constraints.txt torch
	$(PIP) -c $(PINS) -e '.[dev]'
	touch $@

.venv/requirements-all: .venv/requirements
	$(PIP) -c $(PINS) -e '.[dev,test-all]'
	# of what spriteworld asks for, recent Pythons no longer run enum34
	$(PIP) --no-deps -c constraints.txt spriteworld six
	touch $@

train: setup
	$(BIN)/python scripts/svi_train.py quick $(ARGS)

ui: setup
	$(BIN)/python -c "import gradio" 2>/dev/null || $(PIP) -c $(PINS) -e '.[ui]'
	$(BIN)/python scripts/composer.py $(RUN) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy does not follow editable installs: it gets the package laid out as installed
	mkdir -p build/typed/econ_pyro
	ln -sfn $(CURDIR)/econ_pyro/* $(CURDIR)/models $(CURDIR)/guides $(CURDIR)/scripts \
		build/typed/econ_pyro/
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p econ_pyro

# lint and tests, side by side; those of optional packages that are missing are skipped
test: setup
	$(MAKE) -j2 lint pytest

pytest: setup
	$(PYTEST)

# the same with all optional packages
test-all: setup-all test

# only the tests of optional packages: what `make test` skips in a new clone
test-rest: setup-all
	$(PYTEST) --dist worksteal -m needs

# sdist and wheel, in dist/
dist: setup
	test -x $(BIN)/pyproject-build || $(PIP) -c $(PINS) build
	rm -rf dist
	$(BIN)/pyproject-build --outdir dist

# installs the wheel of dist/ into an empty environment, trains and decomposes
test-wheel: dist
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install -q --no-compile -c constraints.txt dist/*.whl
	cd build/wheel && bin/econ-pyro train quick --steps 20 --run run
	cd build/wheel && bin/econ-pyro sample quick --n 1 --out scenes
	cd build/wheel && bin/econ-pyro decompose run scenes/scene-000.png --out layers

# without network, but for what is installed at first
docs: setup
	$(BIN)/python -c "import mkdocs, mkdocstrings, latex2mathml" 2>/dev/null \
		|| $(PIP) -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build dist *.egg-info
