# Every target does its own set-up: a fresh machine needs Python 3.11 and this directory.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.run-ready
TEST_READY := $(VENV)/.test-ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lint bench torture audit-deps requirements clean

# make waits for what it started; when make itself is killed, the application ends too.
run: $(RUN_READY)
	$(BIN)/python manage.py up --demo --with-parent

test: $(TEST_READY)
	sh tests/setup.sh
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not benchmark and not torture" $(ARGS)

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/djlint --lint --quiet templates
	sh tests/check_django.sh $(BIN)/python

bench: $(TEST_READY)
	$(BIN)/python tests/environments.py chops
	$(BIN)/python -m pytest -p no:xdist -m benchmark tests/benchmarks $(ARGS)

torture: $(TEST_READY)
	sh tests/setup.sh
	$(BIN)/python -m pytest -n 2 -m torture $(ARGS)

# Asks an advisory service, so it needs the network; not part of `make lint`.
audit-deps: $(TEST_READY)
	$(BIN)/pip-audit --require-hashes --disable-pip -r requirements/base.txt

# Compile the pinned requirements anew; `make requirements ARGS=--upgrade` takes newer releases.
requirements:
	sh requirements/compile.sh $(ARGS)

clean:
	rm -rf $(VENV) .envs

# The environment is remade from nothing when the requirements change, so that it never holds what they do not name.
$(RUN_READY): requirements/base.txt
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements/base.txt
	touch $@

$(TEST_READY): requirements/test.txt $(RUN_READY)
	$(BIN)/pip install --quiet --require-hashes -r requirements/test.txt
	touch $@
