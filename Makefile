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
	$(RUN) benchmarks/accuracy.py --images 1000 --serial-images 100 --json results/accuracy.json
	$(RUN) benchmarks/throughput.py --model resnet20-fashion-mnist --batch 32 --timesteps 8 16 32 --repeats 9 \
	    --memory-timesteps 32 --rows relu qcfs serial packed pcsnn int8

test: build
	$(RUN) -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

bench: build
	$(RUN) benchmarks/operators.py --json results/operators.json
	$(RUN) benchmarks/accuracy.py --json results/accuracy.json
	$(RUN) benchmarks/throughput.py

clean:
	rm -rf $(VENV) build results *.egg-info pcsnn/*.so
