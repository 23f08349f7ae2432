# make demo      the whole loop, small: installs into .venv, trains on a CPU in minutes, leaves demo_output/demo.html and reports
# make test      installs the test extra and runs the tests      (another Python: make test PYTHON=python3.12)
# make test-all  the tests and the slow ones                     make clean    removes what these made
# make fuzz      inputs with faults for MINUTES=30; writes the table of docs/reliability.md
# make lint      ruff and mypy                                   make format   lets ruff mend what it can

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
PYTEST = $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal
# what a training step needs on a CPU comes in huge pages (glibc 2.35 and newer): a tenth quicker
HUGE_PAGES = GLIBC_TUNABLES=glibc.malloc.hugetlb=1

MINUTES ?= 30

.PHONY: demo test test-all fuzz lint format clean

demo: $(VENV)/.installed
	JAX_PLATFORMS=cpu $(HUGE_PAGES) $(BIN)/igllm demo --out demo_output

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-test
	$(PYTEST)

fuzz: $(VENV)/.installed-test
	JAX_PLATFORMS=cpu $(BIN)/python -m tests.hostile --minutes $(MINUTES) --least 500 --table --keep build/hostile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy igllm_jax tools/convert_weights.py

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-* demo_output build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[report]'
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test]'
	touch $@ $(VENV)/.installed
