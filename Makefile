# Everything starts from a checkout and Python 3.10 or newer; the virtual environment is made on the way.
#   make demo    decide every shipped problem
#   make test    run the tests
#   make lint    formatting, lint rules and types
#   make bench INSTANCES=dir   measure tightness and throughput on a folder of instances (docs/benchmarks.md)
#   make bench-suites INSTANCES=dir   decide whole folders, beside other commands if BENCH_ARGS names some
#   make bench-micro           measure the parts of an iteration on shipped networks
#   make gpu         all that is to be known of a GPU, in eight minutes (docs/gpu.md; GPU_ARGS="--device cpu --tiny" to try it without one)
#   make soundness   decide 2,000 random networks and compare with exact optima or planted points (20 minutes at most)
#   make faults      kill searches and their workers at random moments (20 minutes at most)
#   make fuzz        feed hostile files and command lines to every command (20 minutes at most; findings in build/fuzz)
#   make conformance decide the conformance suite of the VNN-LIB standard (10 minutes)
#   make docs        the documents as a site in build/site (no network, once mkdocs is there)
#   make dist        wheels of verify and of its checker in dist, built, checked, and tried without the checkout
#   make clean   remove the environment and caches
# Options: PYTHON=python3.12, VENV=/elsewhere/venv, PYTEST_ARGS="-k vnnlib", BENCH_ARGS="...", SOUNDNESS_ARGS="...", FUZZ_ARGS="...", FAULTS_ARGS="...", GPU_ARGS="...".

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=
# Two workers with one thread each are faster than one with two: the networks of the tests are small.
WORKERS ?= 2

TRIED = $(addprefix $(CURDIR)/properties/controller/,onnx/controller.onnx vnnlib/brakes.vnnlib)
BENCH = OMP_NUM_THREADS=1 $(VENV)/bin/python -m
# INSTANCES: folders with an instances.csv, each as DIR or DIR:REGEX of networks.
SELECTED = $(addprefix --instances ,$(or $(INSTANCES),$(error say what to measure: make bench INSTANCES="DIR DIR:REGEX ...", \
	folders with an instances.csv; see docs/benchmarks.md)))

.PHONY: demo test lint format bench bench-tightness bench-throughput bench-suites bench-selected bench-micro gpu soundness faults fuzz conformance docs dist clean
.DELETE_ON_ERROR:

demo: $(VENV)/.stamp-core
	$(VENV)/bin/python -m benchmarks.demo

test: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(VENV)/bin/ruff format --check verify properties benchmarks tests examples docs/hooks.py
	$(VENV)/bin/ruff check verify properties benchmarks tests examples docs/hooks.py
	$(VENV)/bin/mypy

format: $(VENV)/.stamp-dev
	$(VENV)/bin/ruff format verify properties benchmarks tests examples docs/hooks.py
	$(VENV)/bin/ruff check --fix verify properties benchmarks tests examples docs/hooks.py

bench: bench-tightness bench-throughput

bench-tightness: bench-selected $(VENV)/.stamp-bench
	$(BENCH) benchmarks.tightness $(SELECTED) $(BENCH_ARGS)
	$(BENCH) benchmarks.document

bench-throughput: bench-selected $(VENV)/.stamp-bench
	$(BENCH) benchmarks.throughput $(SELECTED) $(BENCH_ARGS)
	$(BENCH) benchmarks.document

bench-suites: bench-selected $(VENV)/.stamp-bench
	$(BENCH) benchmarks.suites $(SELECTED) $(BENCH_ARGS)

bench-selected:
	@echo measuring: $(SELECTED)

bench-micro: $(VENV)/.stamp-bench
	$(BENCH) pytest benchmarks/test_micro.py --benchmark-timer=time.process_time --benchmark-group-by=func \
		--benchmark-columns=min,median,rounds --benchmark-sort=name $(BENCH_ARGS)

# Threads are left to torch: the CPU beside the GPU is to have all of its cores.
gpu: $(VENV)/.stamp-dev
	$(VENV)/bin/python -m benchmarks.gpu $(addprefix --instances ,$(INSTANCES)) $(GPU_ARGS)

# The exact optima need SciPy, which is for development alone.
soundness: $(VENV)/.stamp-dev
	$(BENCH) benchmarks.soundness $(SOUNDNESS_ARGS)

faults: $(VENV)/.stamp-dev
	$(BENCH) benchmarks.faults $(FAULTS_ARGS)

fuzz: $(VENV)/.stamp-dev
	$(BENCH) benchmarks.fuzz $(FUZZ_ARGS)

# The public suite of the VNN-LIB standard, 178 cases in 10 minutes: 5 s each by default, start-up included.
conformance: $(VENV)/.stamp-dev
	mkdir -p build/conformance && cd build/conformance && OMP_NUM_THREADS=1 $(abspath $(VENV))/bin/vnnlib-satisfactory run \
		--solver $(abspath $(VENV))/bin/verify $(CONFORMANCE_ARGS)
	cd build/conformance && for what in opset vnnlib serialise-assignments; do \
		$(abspath $(VENV))/bin/vnnlib-satisfactory compliance $$what --solver $(abspath $(VENV))/bin/verify || exit 1; done

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --clean

# What is built is tried from a folder of its own, with the libraries of the environment: search, certificate, check.
dist: $(VENV)/.stamp-dist
	rm -rf dist build/lib build/bdist.* build/tried nn-verify-checker/build && mkdir -p build
	$(VENV)/bin/python -m build --no-isolation --outdir dist .
	$(VENV)/bin/python -m build --no-isolation --wheel --outdir dist nn-verify-checker
	$(VENV)/bin/twine check --strict dist/*
	$(PIP) install --quiet --no-deps --target build/tried/whole dist/nn_verify-*.whl
	$(PIP) install --quiet --no-deps --target build/tried/checker dist/nn_verify_checker-*.whl
	cd build/tried && PYTHONPATH=whole $(abspath $(VENV))/bin/python -m verify run $(TRIED) --certificate proof.cert
	cd build/tried && PYTHONPATH=checker $(abspath $(VENV))/bin/python -m verify.checker.command proof.cert $(TRIED)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-core: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable .
	$(VENV)/bin/python -m compileall -q verify
	touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[dev]'
	$(VENV)/bin/python -m compileall -q verify
	touch $@ $(VENV)/.stamp-core

$(VENV)/.stamp-bench: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[bench]'
	$(VENV)/bin/python -m compileall -q verify
	touch $@ $(VENV)/.stamp-core

$(VENV)/.stamp-docs: pyproject.toml | $(VENV)/.stamp-core
	$(PIP) install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.stamp-dist: pyproject.toml | $(VENV)/.stamp-core
	$(PIP) install --quiet --editable '.[dist]'
	touch $@
