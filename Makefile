# make demo, make test, make check: each sets up .venv first. Needs Python 3.11 and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WHEEL := build/demo/basic_pitch-0.4.0-py2.py3-none-any.whl

.PHONY: demo test check format clean

demo: $(READY) $(WHEEL)
	$(BIN)/python examples/quickstart.py $(WHEEL) --out build/demo

test: $(READY) $(WHEEL)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build

# constraints.txt holds the versions that the tests ran with; users of the package are free to take others.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(WHEEL): | $(READY)
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(@D) basic-pitch==0.4.0
	touch $@
