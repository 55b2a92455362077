# One command for each thing a newcomer, a build server or a GPU machine does here.
#
#   PYTHON=python3.12             the interpreter .venv is made from
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                 where else to look for torch: this one has small CPU-only builds
#   CXX=clang++                   the compiler of the extension
#   DGM_FAST_BUILD=auto|cpu|cuda|none

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
GPU_PYTHON ?= python3
OUT ?= gpu_output
WORKERS ?= 2
GPU_WORKERS ?= $(shell nproc)
export CXX

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
PYTHON_H = $(RUN) -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")'
CSRC := $(shell find csrc -type f)

define NO_PYTHON
dgm_fast needs Python >= 3.10. Name one: make PYTHON=python3.12 (Debian, Ubuntu: apt install python3)
endef

define NO_VENV
No virtual environment could be made with $(PYTHON) (Debian, Ubuntu: apt install python3-venv)
endef

define NO_TRITON
Triton has no wheel for this platform: its kernels stay off, and everything else works.
endef

define NO_COMPILER
No C++ compiler ($(CXX)) or no Python headers: dgm_fast runs on plain PyTorch, without its fast
CPU kernels. To have them, install both and run make again:
  Debian, Ubuntu: apt install g++ python3-dev
  Fedora: dnf install gcc-c++ python3-devel    macOS: xcode-select --install
endef

GPU_MODULES := torch hypothesis matplotlib ninja numpy psutil pybind11 pytest rich safetensors \
  setuptools tyro xdist

define GPU_CHECK
import importlib.util, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"{sys.executable} lacks {', '.join(missing)}: install them with pip. Of these "
             "`make wheels` can fetch tyro alone, where there is a network: bring wheels/ here")
import torch
if not torch.cuda.is_available():
    sys.exit(f"{sys.executable} sees no GPU; name another Python: make gpu GPU_PYTHON=...")
endef

export NO_PYTHON NO_VENV NO_TRITON NO_COMPILER GPU_CHECK

.PHONY: help
help:  ## say what there is
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16

.PHONY: setup
setup: $(VENV)/.built  ## make .venv with pinned dependencies and build the extension

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$$NO_PYTHON" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$$NO_VENV" >&2; exit 1; }
	@touch $@

# torch comes first and pinned, so that no later package chooses another one.
$(VENV)/.dependencies: constraints.txt pyproject.toml $(VENV)/.python
	@echo "Installing the pinned dependencies into $(VENV) (some minutes the first time)"
	@$(INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@$(INSTALL) ninja pybind11 setuptools wheel
	@DGM_FAST_BUILD=none $(INSTALL) --no-build-isolation --editable '.[train,bench,dev]'
	@$(INSTALL) triton || echo "$$NO_TRITON" >&2
	@touch $@

# Built in place rather than by pip, whose temporary folder would make every build a full one.
# Where the tools are missing the stamp stays untouched, so that the next make looks again; where
# they are present a build that fails stops here, or the tests would pass without the kernels.
$(VENV)/.built: setup.py $(CSRC) $(VENV)/.dependencies
	@if [ "$${DGM_FAST_BUILD:-auto}" = none ]; then \
	  echo "DGM_FAST_BUILD=none: the extension is left out."; \
	elif command -v $(firstword $(CXX)) >/dev/null && [ -f "$$($(PYTHON_H))" ]; then \
	  $(RUN) setup.py --quiet build_ext --inplace; \
	  $(RUN) -c 'from dgm_fast._core import extension; exit(extension.cpp_missing)'; \
	  touch $@; \
	else \
	  echo "$$NO_COMPILER" >&2; \
	fi

.PHONY: demo
demo: setup  ## train models of every kind on digits and vowels and time every op
	$(RUN) -m dgm_fast.demo --out demo_output

.PHONY: test
test: setup  ## run every test that this machine can run
	TRITON_INTERPRET=1 $(RUN) -m pytest -m interpret -n $(WORKERS) --dist worksteal tests
	$(RUN) -m pytest -m "not interpret" -n $(WORKERS) --dist worksteal

# What is pinned is newer, and takes what the oldest refuses.
.PHONY: oldest-triton
oldest-triton: setup  ## compile all that Triton launches with the oldest version that is supported
	$(PIP) install --quiet --no-deps --upgrade --target $(VENV)/oldest-triton triton==3.6.0
	PYTHONPATH=$(VENV)/oldest-triton $(RUN) -m pytest -n $(WORKERS) tests/test_triton_launches.py

.PHONY: bench
bench: setup  ## time every op, record the rows, draw the plots and rewrite the tables
	$(RUN) -m benchmarks.run
	$(RUN) -m benchmarks.dispatch_overhead
	$(RUN) -m benchmarks.made_training_step
	$(RUN) -m benchmarks.vae_training_step
	$(RUN) -m benchmarks.reversible_glow
	$(RUN) -m benchmarks.sampling
	$(RUN) -m benchmarks.plot
	$(RUN) -m benchmarks.readme

.PHONY: lint
lint: $(VENV)/.dependencies  ## check style, formatting and the direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' \
	  | xargs $(VENV)/bin/clang-format --dry-run -Werror
	$(VENV)/bin/lint-imports
	$(RUN) -m benchmarks.readme --check

# tyro and what it needs are what a GPU machine most often lacks, and run unpacked from a folder.
.PHONY: wheels
wheels:  ## fetch tyro, for `make gpu` on a machine without a network, into wheels/
	$(PYTHON) -m pip download --quiet --no-deps --only-binary :all: --constraint constraints.txt \
	  --dest wheels docstring-parser tyro typeguard

# A GPU machine brings its own torch and Triton, and perhaps no network: nothing is installed.
# Wheels of pure Python run as they are, from the search path. A step that fails leaves the others
# and their results alone; the end tells. Tests and compilers spend their time on the CPU's cores, so
# many run at once; timing has the machine to itself.
.PHONY: gpu
gpu: export PYTHONPATH := $(subst $(eval) ,:,$(abspath $(wildcard wheels/*.whl)) $(PYTHONPATH))
gpu:  ## on a GPU machine: build, run the gpu tests and the benchmarks; results in OUT
	@$(GPU_PYTHON) -c "$$GPU_CHECK" $(GPU_MODULES)
	mkdir -p "$(OUT)"
	@failed=""; \
	step() { \
	  echo "$$2"; \
	  $(GPU_PYTHON) $$2 2>&1 | tee "$(OUT)/$$1" || failed+=" $$1"; \
	}; \
	step build.log "setup.py build_ext --inplace"; \
	$(GPU_PYTHON) -m dgm_fast.env --json > "$(OUT)/env.json" || failed+=" env.json"; \
	step env.txt "-m dgm_fast.env"; \
	step tests.log "-m pytest -m gpu -n $(GPU_WORKERS) --junitxml $(OUT)/tests.xml tests"; \
	step run.log "-m benchmarks.run --device cuda --compilers $(GPU_WORKERS) \
	  --contract $(OUT)/tests.xml"; \
	step dispatch_overhead.log "-m benchmarks.dispatch_overhead --device cuda"; \
	step made_training_step.log "-m benchmarks.made_training_step --device cuda"; \
	step vae_training_step.log "-m benchmarks.vae_training_step --device cuda"; \
	step reversible_glow.log "-m benchmarks.reversible_glow --device cuda"; \
	step sampling.log "-m benchmarks.sampling --device cuda"; \
	cp -r benchmarks/results "$(OUT)/" || failed+=" results"; \
	if [ -n "$$failed" ]; then echo "Failed, see $(OUT):$$failed" >&2; exit 1; fi

.PHONY: clean
clean:  ## remove what set-up, builds and tests left; results stay
	rm -rf $(VENV) build dist *.egg-info .benchmarks .hypothesis .import_linter_cache \
	  .pytest_cache .ruff_cache
	rm -f dgm_fast/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
