# make demo   converts a real trained network, shows its accuracy and speed, writes a table and a picture to results/
# make test   runs the tests
# Both create .venv, install what they need and build the C++ kernels first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: build demo test bench clean

build: $(VENV)/built

# torch first, pinned by constraints.txt, and no build isolation: both would otherwise bring a CUDA build of several GB.
$(VENV)/dependencies: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy setuptools wheel ninja
	touch $@

$(VENV)/built: $(VENV)/dependencies pyproject.toml setup.py $(wildcard csrc/*)
	$(PIP) --no-build-isolation --editable .[plots,test,bench]
	touch $@

demo: build
	$(RUN) benchmarks/demo.py

test: build
	$(RUN) -m pytest

bench: build
	$(RUN) benchmarks/operators.py
	$(RUN) benchmarks/accuracy.py
	$(RUN) benchmarks/throughput.py

clean:
	rm -rf $(VENV) build results *.egg-info pcsnn/*.so
