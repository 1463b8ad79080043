# The Makefile only arranges; every target's command also works by itself once .venv is active.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

export PATH := $(CURDIR)/$(BIN):$(PATH)
export QUARTO_PYTHON := $(CURDIR)/$(BIN)/python
# The book needs no bytecode cache in the tree, and a kernel started by Quarto must not leave one.
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup report preview measure test clean

help:  ## show these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## set up .venv with everything that the book needs

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "The book needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)."; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(BIN)/python -m src.assets > /dev/null
	@touch $@

report: setup  ## render the book to _book/ as HTML and PDF, and print where they are
	@$(BIN)/python -m src.render

preview: setup  ## serve the book and render it again as you edit (needs Quarto)
	@$(BIN)/python -m src.render --preview

measure: setup  ## measure this machine into data/machines/ (BUDGET=20m, OPTIONS='--device cpu')
	@$(BIN)/python -m src.measure $(if $(BUDGET),--budget $(BUDGET)) $(OPTIONS)

test: setup  ## run the tests
	@$(BIN)/python -m pytest

clean:  ## delete what was rendered and generated; measurements and .venv stay
	rm -rf _book _draft .quarto assets/generated
