# `make demo` answers the question on real data, `make test` runs every test, `make check` lints and
# checks types. Each makes .venv where there is none.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test check format
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/lapse compare

test: .venv/installed
	$(BIN)/pytest -n auto --ignore=tests/keras_layers
	KERAS_BACKEND=torch $(BIN)/pytest -n auto tests/keras_layers
	KERAS_BACKEND=jax $(BIN)/pytest -n auto tests/keras_layers
	KERAS_BACKEND=tensorflow $(BIN)/pytest -n auto tests/keras_layers

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python scripts/make_docs.py --check

format: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# PyTorch first: later requirements then take this version instead of the newest.
.venv/installed: pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
