# make demo   converts a real trained network, shows its accuracy and speed, writes a table and a picture to results/
# make test   runs the quick tests, which cover every promise; make test-all runs every case of every test
# All three create .venv, install what they need and build the C++ kernels first.
# make lint   format, lint and types of all code; builds nothing
# make wheel  one wheel in dist/ for every torch from 2.10 and every Python from 3.10 on (docs/installation.md)
# make docs   the pages of docs/, the notebooks and a reference of all public names as a site in results/site; a broken
#             link fails; builds no kernels
# make gpu    on a machine with a GPU: builds in place, runs the tests that need one, measures everything, writes
#             results/gpu.json and gpu.png. $(PYTHON) and its packages as they are: no .venv, no network.
#             DRY=1: all of it in small, on the CPU
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
OWN_PATH := $(if $(findstring /,$(PYTHON)),$(abspath $(dir $(PYTHON))):)$(PATH)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: build demo lint docs test test-all wheel bench gpu clean

build: $(VENV)/built

# torch first, pinned by constraints.txt: it would otherwise bring a CUDA build of several GB.
$(VENV)/dependencies: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy setuptools wheel ninja
	touch $@

$(VENV)/built: $(VENV)/dependencies pyproject.toml setup.py $(wildcard csrc/*)
	$(PIP) --no-build-isolation --editable .[plots,test,bench]
	$(PIP) --no-deps onnx2torch  # it requires torchvision, whose builds for CUDA do not import here
	touch $@

$(VENV)/lint: $(VENV)/dependencies
	$(PIP) ruff clang-format mypy safetensors
	touch $@

lint: $(VENV)/lint
	ruff format --check .
	ruff check .
	clang-format --dry-run --Werror csrc/*.cpp csrc/*.h
	mypy

# The reference is read from the sources, not imported.
$(VENV)/docs: $(VENV)/dependencies
	$(PIP) mkdocs mkdocs-material mkdocstrings[python] mkdocs-jupyter mdx-truly-sane-lists latex2mathml
	touch $@

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

demo: build
	$(RUN) benchmarks/accuracy.py --images 1000 --serial-images 100 --json results/accuracy.json
	$(RUN) benchmarks/throughput.py --model resnet20-fashion-mnist --batch 32 --timesteps 8 16 32 --repeats 9 \
	    --memory-timesteps 32 --rows relu qcfs serial packed pcsnn int8

PYTEST := $(RUN) -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal
test: build
	$(PYTEST) --quick

test-all: build
	$(PYTEST)

# build/lib might hold modules that are no more, which would get into the wheel.
wheel: $(VENV)/dependencies
	rm -rf build/lib*
	PCSNN_REQUIRE_EXT=1 $(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

bench: build
	$(RUN) benchmarks/operators.py --json results/operators.json
	$(RUN) benchmarks/accuracy.py --json results/accuracy.json
	$(RUN) benchmarks/throughput.py

# Tests first, then the measurement whatever they gave; either one's failure is make's.
GPU_OPTIONS ?= $(if $(DRY),--dry,--seconds 240)
IN_PROCESSES := --numprocesses logical --maxprocesses 14 --dist worksteal
gpu: export PATH := $(OWN_PATH)
gpu: export PYTHONPATH := $(CURDIR)
gpu: export PYTHONUNBUFFERED := 1
gpu: export PCSNN_REQUIRE_EXT := 1
gpu: export MAX_JOBS ?= $(shell nproc)
gpu:
	@mkdir -p results
	$(PYTHON) setup.py build_ext --inplace > results/build.log 2>&1 || { tail -40 results/build.log; exit 1; }
	$(PYTHON) -c "import pcsnn.kernels" 2>/dev/null || ln -s ../kernels pcsnn/kernels
	failed=0; \
	$(PYTHON) -m pytest -m gpu $$(grep -l "mark\.gpu" tests/*/test_*.py) \
	    $$($(PYTHON) -c "import xdist" 2>/dev/null && echo $(IN_PROCESSES)) || failed=1; \
	$(PYTHON) benchmarks/gpu.py $(GPU_OPTIONS) || failed=1; \
	exit $$failed

clean:
	rm -rf $(VENV) build dist results *.egg-info pcsnn/*.so
	test ! -L pcsnn/kernels || rm pcsnn/kernels
