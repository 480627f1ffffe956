# make help lists the targets. Needs python3 (3.11 or newer) with venv, and g++ or clang++.
PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
MINUTES ?= 3

BIN     := $(VENV)/bin
PINNED  := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
INPUTS  := pyproject.toml constraints.txt
# Tests run side by side, one thread of torch's each; those about threads set their number themselves.
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help demo test lint docs bench clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1: /p' Makefile

demo: $(VENV)/.installed  ## train a language model for MINUTES (3) on Python's own library, then let it write
	@run=runs/demo; n=2; while [ -e $$run ]; do run=runs/demo-$$n; n=$$((n + 1)); done; \
	$(BIN)/throughtime train lm --minutes $(MINUTES) --out $$run && \
	echo && echo "A sample:" && \
	$(BIN)/throughtime sample $$run --length 400 --temperature 0.7 --seed 1 && \
	echo && echo "Loss curve: $$run/loss-curve.png"

test: lint  ## lint, format, static types, then every test, with WORKERS (2) at once
	$(PYTEST)

lint: $(VENV)/.installed-test  ## lint, format and static types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## build the documentation into build/docs; runs its code, every warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "Documentation: build/docs/index.html"

bench: $(VENV)/.installed-test  ## measure against torch.nn; prints tables, see bench/README.md
	$(BIN)/python bench/compile_time.py
	$(BIN)/throughtime bench

clean:  ## remove the virtual environment and everything made by tools; runs/ stays
	rm -rf .venv build dist docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are older than their inputs when pyproject.toml or constraints.txt has changed.
$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(PINNED) -e .
	touch $@

$(VENV)/.installed-test: $(INPUTS) | $(BIN)/python
	$(PINNED) -e '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(INPUTS) | $(BIN)/python
	$(PINNED) -e '.[docs]'
	touch $@ $(VENV)/.installed
