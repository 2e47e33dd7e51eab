# Two commands on a machine that has Python (3.10 or newer) and make:
#   make demo   the ablation of the paper's Table 5 on the bundled model, in minutes
#   make test   the default test suite
# Each creates the virtual environment and installs what it needs, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check table5 clean

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; name one with PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m cq.table table5 scale=demo paths=demo out=runs/demo/report

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff format --check cq tests
	$(BIN)/ruff check cq tests
	$(BIN)/mypy

table5: $(VENV)/.installed
	$(BIN)/python -m cq.table table5 paths=results out=results sample=images700 budget.cache_interval=5,10,20 budget.weight_bits=8,4 seed=0,1,2

clean:
	rm -rf runs
