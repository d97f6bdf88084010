# The two commands of a newcomer: make train, make test. Both set up .venv first.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
# an outer Python's own torch (a GPU build, say) is kept; else the pinned one is installed
HAS_TORCH := $(shell $(PYTHON) -c "import torch" 2>/dev/null && echo --system-site-packages)

# what `make ui` serves: weights that are installed, or a run's folder
RUN ?= quick

.PHONY: train test lint docs clean setup ui

setup: .venv/requirements

.venv/bin/python:
	$(PYTHON) -m venv $(HAS_TORCH) .venv

.venv/requirements: constraints.txt pyproject.toml .venv/bin/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c $(if $(HAS_TORCH),<(grep -v '^torch==' constraints.txt),constraints.txt) -e '.[dev]'
	# of what spriteworld asks for, recent Pythons no longer run enum34
	$(BIN)/pip install -q --no-deps -c constraints.txt spriteworld six
	touch $@

train: setup
	$(BIN)/python scripts/svi_train.py quick $(ARGS)

ui: setup
	$(BIN)/python -c "import gradio" 2>/dev/null || $(BIN)/pip install -q -c constraints.txt -e '.[ui]'
	$(BIN)/python scripts/composer.py $(RUN) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy does not follow editable installs: it gets the package laid out as installed
	mkdir -p build/typed/econ_pyro
	ln -sfn $(CURDIR)/econ_pyro/* $(CURDIR)/models $(CURDIR)/guides $(CURDIR)/scripts \
		build/typed/econ_pyro/
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p econ_pyro

test: lint
	# whole files to a process, so that what they train once is trained once
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

# without network, but for what is installed at first
docs: setup
	$(BIN)/python -c "import mkdocs, mkdocstrings, latex2mathml" 2>/dev/null \
		|| $(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build *.egg-info
