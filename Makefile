# Each target sets up what it needs; ARGS goes on to the command.
VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell command -v $(p) >/dev/null 2>&1 && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test long check bench protos clean

demo: $(RUN_READY)
	$(BIN)/chorus demo $(ARGS)

bench: $(RUN_READY)
	$(BIN)/chorus bench $(ARGS)

test: $(DEV_READY)
	$(BIN)/python -m pytest -m "not long" $(ARGS)

long: $(DEV_READY)
	$(BIN)/python -m pytest -m long $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

protos: $(DEV_READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/*.proto

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Chorus needs Python 3.11 or newer: install it, or name one with PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[server]'
	@touch $@

$(DEV_READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Chorus needs Python 3.11 or newer: install it, or name one with PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[server,dev]'
	@touch $@ $(RUN_READY)
