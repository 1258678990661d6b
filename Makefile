# One word each: demo, test, check, bench. Every target sets itself up.
VENV ?= .venv
PY := $(VENV)/bin/python
SETUP := $(VENV)/.installed
TOOLS := $(VENV)/.test-tools

.PHONY: demo test check bench format clean setup
.DELETE_ON_ERROR:

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt packaging/setup.sh packaging/apt.sh
	VENV=$(VENV) sh packaging/setup.sh

$(TOOLS): packaging/test-tools.sh $(SETUP)
	VENV=$(VENV) sh packaging/test-tools.sh

demo: $(SETUP)
	$(VENV)/bin/hometwin demo $(ARGS)

test: $(TOOLS)
	$(PY) -m pytest -n 2 $(ARGS)

check: $(SETUP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(SETUP)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(PY) -m bench $(ARGS)

format: $(SETUP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
