# `make demo` and `make test` each do everything that they need, from a fresh clone on.
# Needed beforehand: Python 3.11 or newer with its venv module, a C++ compiler, make.

PYTHON ?= python3
PYTEST_ARGS ?= -n auto --dist loadscope --no-loadscope-reorder

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
LIGHT := $(VENV)/.light
PYTEST = $(BIN)/python -m pytest $(PYTEST_ARGS)
PIP := $(BIN)/python -m pip
CMAKE := $(BIN)/cmake
DEMO := build/demo

.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.PHONY: help venv chromium test test-slow test-arm fuzz mutants sanitize lint format typecheck libraries bench bench-save bench-adapt transfer figures pages wheel demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv with everything for development

# One environment with two stamps: .light has what zeta needs to run, for the demo; .complete has the tools as well.
# The marker .installing becomes the stamp only when every step has passed. If it exists at the start, an earlier run
# was interrupted and may have left half a package, and the environment is built anew.
# torch is installed first and alone: which build of it suits this computer is settled before anything depends on it.
define environment
	@if [ -e $(VENV)/.installing ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	        echo "zeta needs Python 3.11 or newer as '$(PYTHON)'; name another with: make PYTHON=..." >&2; exit 1; }; \
	    $(PYTHON) -m venv --clear $(VENV) || { \
	        echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@rm -f $(STAMP) $(LIGHT) && touch $(VENV)/.installing
	$(PIP) install --quiet -c constraints.txt --upgrade pip
	$(PIP) install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
endef

INSTALL := ZETA_REQUIRE_KERNELS=1 $(PIP) install --quiet -c constraints.txt --build-constraint constraints.txt
PARTS := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)

$(STAMP): $(PARTS)
	$(environment)
	$(INSTALL) --group dev -e .
	@mv $(VENV)/.installing $(STAMP)

$(LIGHT): $(PARTS)
	$(environment)
	$(INSTALL) -e .
	@mv $(VENV)/.installing $(LIGHT)

# The tests that look at HTML skip themselves where this can do nothing.
chromium: ## install Debian's Chromium for the tests of HTML, where there is none, as root, with apt
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq -y --no-install-recommends chromium; } >/dev/null 2>&1 || \
	        echo "chromium cannot be installed; the tests of HTML will be skipped"; \
	else echo "no chromium; the tests of HTML will be skipped"; fi

test: lint typecheck sanitize chromium ## lint, type check, run the tests and doctests (PYTEST_ARGS="-n 0 -x" and the like are passed on)
	$(PYTEST)

test-slow: $(STAMP) ## run the tests that take minutes, every word of 32 bits among them
	$(CMAKE) -S . -B build/programs -DCMAKE_BUILD_TYPE=Release -DZETA_TEST_PROGRAMS=ON >build/programs.log
	$(CMAKE) --build build/programs >>build/programs.log
	$(PYTEST) -m slow

# A compiler for the other processor and an emulator of it, from Debian.
ARM_CXX := aarch64-linux-gnu-g++
ARM_PACKAGES := g++-aarch64-linux-gnu qemu-user

test-arm: $(STAMP) ## run the kernels for ARM (NEON) in an emulator; installs it, as root, with apt
	@command -v $(ARM_CXX) >/dev/null && command -v qemu-aarch64 >/dev/null || { \
	    echo "installing $(ARM_PACKAGES)"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq -y --no-install-recommends $(ARM_PACKAGES); } >/dev/null; }
	$(CMAKE) -S . -B build/arm -DCMAKE_BUILD_TYPE=Release -DZETA_TEST_PROGRAMS=ON -DCMAKE_SYSTEM_NAME=Linux \
	    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM_CXX) >build/arm.log
	$(CMAKE) --build build/arm >>build/arm.log
	$(PYTEST) -m arm

COUNT ?= 100000

fuzz: $(STAMP) ## let each reader have COUNT mutated documents, 100000 unless told otherwise
	$(BIN)/python -m tests.fuzz.run --count $(COUNT)

MUTANTS ?= 300

mutants: $(STAMP) ## change one operator of the core at a time, MUTANTS times, 300 unless told otherwise: do the tests see it?
	$(PIP) install --quiet -c constraints.txt --group mutants
	$(BIN)/python -m tests.mutants.run --count $(MUTANTS)

# Preloaded into Python, which was not built with them; leaks are not looked for, as the interpreter never frees all.
SANITIZERS = $(shell $(CXX) -print-file-name=libasan.so):$(shell $(CXX) -print-file-name=libubsan.so)

sanitize: $(STAMP) ## run the tests of the kernels under the address and undefined-behaviour sanitizers
	$(CMAKE) -S . -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DZETA_SANITIZE=ON >build/sanitize.log
	$(CMAKE) --build build/sanitize >>build/sanitize.log
	LD_PRELOAD=$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0 ZETA_LIBRARY=build/sanitize/libzeta_native.so \
	    $(PYTEST) -q -m sanitize tests/compute/test_kernels.py

# A separate environment, since these bring much along. torchvision goes in without its dependencies, which name a torch.
LIBRARIES := build/libraries
LIBRARY_PIP := $(LIBRARIES)/bin/python -m pip install --quiet -c constraints.txt -c benchmarks/libraries.txt

libraries: ## create build/libraries, with the libraries of docs/libraries.md, for benchmarks.architectures
	$(PYTHON) -m venv --clear $(LIBRARIES)
	$(LIBRARY_PIP) --upgrade pip
	$(LIBRARY_PIP) "$$(grep '^torch==' constraints.txt)"
	$(LIBRARY_PIP) --no-deps torchvision
	$(LIBRARY_PIP) numpy transformers timm diffusers peft torch_geometric expecttest scipy scikit-learn
	ZETA_REQUIRE_KERNELS=1 $(LIBRARY_PIP) --build-constraint constraints.txt -e .

bench: $(STAMP) ## measure against torch, NumPy and JAX on this machine; writes build/bench/cpu.json
	$(PIP) install --quiet -c constraints.txt --group bench
	$(BIN)/python -m benchmarks.cpu

bench-save: $(STAMP) ## write a checkpoint of 13.5 GB compared with dd on the same disk; writes build/bench/checkpoint.json
	$(BIN)/python -m benchmarks.checkpoint

bench-adapt: $(STAMP) ## adapt a checkpoint of 13.5 GB compared with cp of its folder; writes build/bench/adapting.json
	$(BIN)/python -m benchmarks.adapting

transfer: $(STAMP) ## sweep learning rates over widths and depths (two hours; goes on where it stopped); writes docs/transfer.md
	$(PIP) install --quiet -c constraints.txt --group transfer
	mkdir -p build/transfer && cp -n docs/transfer.json build/transfer/transfer.json
	OMP_NUM_THREADS=1 $(BIN)/python examples/transfer.py --out build/transfer
	cp build/transfer/transfer.svg docs/images/transfer.svg
	cp build/transfer/transfer.md build/transfer/transfer.json docs

figures: $(STAMP) ## take the figures of the last benchmarks into docs/performance.json, and write the pages that show them
	$(BIN)/python -m benchmarks.figures $(wildcard $(addprefix build/bench/,cpu.json checkpoint.json streamed.json adapting.json vocabulary.json)) \
	    $(if $(MACHINE),--machine "$(MACHINE)")

pages: figures ## write all that is generated in docs/: figures, sections of check.md, pages of recipes, the picture of a report
	$(BIN)/python docs/catalogue.py
	$(BIN)/python docs/recipe_pages.py
	$(BIN)/python docs/images/make.py

# auditwheel finds patchelf on PATH
wheel: $(STAMP) ## build the wheel for this Linux, give it its manylinux tag, check it in a fresh environment; writes dist/
	$(PIP) install --quiet -c constraints.txt --group wheel
	rm -rf build/wheel dist
	ZETA_REQUIRE_KERNELS=1 $(PIP) wheel --quiet --no-deps --build-constraint constraints.txt -w build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	$(BIN)/python -m tests.versions.wheels dist/*.whl

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP) ## mend style and formatting in place
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

typecheck: $(STAMP) ## check types
	$(BIN)/mypy

GPT2 := examples/gpt.py:gpt2 --recipe gpt2 --seed 0

# It needs no tools, and so uses .light, unless the environment is complete. Without NumPy, torch warns, and goes on.
demo: export PYTHONWARNINGS := ignore:Failed to initialize NumPy
demo: $(or $(wildcard $(STAMP)),$(LIGHT)) ## initialize a GPT-2 of 124M parameters, write it, verify every value, check that it can learn
	$(BIN)/zeta init $(GPT2) --out $(DEMO) --force --no-check
	$(BIN)/zeta verify $(DEMO)
	@echo
	@echo "The files are in $(CURDIR)/$(DEMO):"
	@ls -l $(DEMO)
	@echo "124,439,808 parameters of 4 bytes are 498 MB. The file has 652 MB: lm_head.weight is tied to wte.weight, and its"
	@echo "154 MB are stored under both names, as load_state_dict(strict=True) expects. --drop-ties stores them once."
	@echo
	$(BIN)/zeta check $(GPT2) --batch docs/demo.py:tokens

clean: ## remove the environment and everything generated
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
