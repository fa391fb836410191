# make demo   a five-fold cross-validation of a small UNet on phantoms, seen in MLflow
# make test   every test; make check: format, lint, types and the fast tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo check test format clean-demo

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bratsml needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: plain pip would otherwise bring a newer build
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/bratsml phantom --out data/phantom
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mlflow run . -e cv -P model=unet

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile -m "not slow and not real_data" tests/unit tests/contracts tests/properties tests/architecture

test: install
	$(BIN)/pytest -n auto --dist loadfile

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
