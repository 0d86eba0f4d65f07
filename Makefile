# `make demo` answers the question on real data, `make test` runs every test, `make check` lints and
# checks types. Each makes .venv where there is none.
PYTHON ?= python3.11
BIN := .venv/bin
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal

.PHONY: demo test fuzz conformance check bench sanitize format
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/lapse compare

test: .venv/installed
	$(PYTEST) --ignore=tests/keras_layers
	KERAS_BACKEND=torch $(PYTEST) tests/keras_layers
	KERAS_BACKEND=jax $(PYTEST) tests/keras_layers
	KERAS_BACKEND=tensorflow $(PYTEST) tests/keras_layers

# Ten thousand random configurations against the oracle; 500 of them are part of `make test`.
fuzz: .venv/installed
	$(PYTEST) --hypothesis-profile=fuzz tests/test_fuzz.py
	KERAS_BACKEND=torch $(PYTEST) --hypothesis-profile=fuzz tests/keras_layers/test_fuzz.py

# Keras's own tests, with lapse's layers and cells in the place of Keras's.
conformance: .venv/installed
	for backend in torch jax tensorflow; do \
	  KERAS_BACKEND=$$backend PYTHONPATH=tests/conformance $(BIN)/python -m pytest -p plugin \
	    -c tests/conformance/pytest.ini --rootdir tests/conformance -q || exit 1; \
	done

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python scripts/make_docs.py --check

bench: .venv/installed
	$(BIN)/lapse bench

# The kernels built with a sanitizer, on threads that it can see, through all tests of theirs.
sanitize: build/address/threads.so build/thread/threads.so
	LAPSE_SANITIZED=build/address ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
	  PYTHONMALLOC=malloc LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(BIN)/python -m pytest -p sanitized --capture=sys -q tests/test_kernels.py tests/test_host.py
	LAPSE_SANITIZED=build/thread TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" \
	  LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" \
	  $(BIN)/python -m pytest -p sanitized --capture=sys -q tests/test_kernels.py tests/test_host.py

build/address/threads.so: FLAGS := -fsanitize=address,undefined
build/thread/threads.so: FLAGS := -fsanitize=thread
build/%/threads.so: tests/sanitize/threads.cpp .venv/installed $(wildcard csrc/*)
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/$* . \
	  --config-settings=cmake.define.CMAKE_CXX_FLAGS="$(FLAGS) -g -fno-omit-frame-pointer"
	g++ -std=c++17 -g -O1 -shared -fPIC -pthread $(FLAGS) $< -o $@

format: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# PyTorch first: later requirements then take this version instead of the newest.
.venv/installed: pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
