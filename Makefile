# Three commands on a machine that has Python (3.10 or newer) and make:
#   make demo   naive, the paper's recipe and the best one on a bundled model, with measured seconds, in minutes
#   make speed  the same images in full precision and in integers, with measured seconds, in minutes
#   make test   the default test suite
# Each creates the virtual environment and installs what it needs, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

unexport PYTHONDONTWRITEBYTECODE

# Integers where the processor multiplies them exactly; else the same bits are simulated, and not timed.
ENGINE := from cq.engine.kernels import weight_bits; print("int8" if weight_bits() == 8 else "simulate")

TABLES := $(filter-out demo,$(sort $(notdir $(basename $(wildcard conf/table/*.yaml)))))

.PHONY: environment demo speed test check clean tables $(TABLES)

# Asked every time, in a fraction of a second: a kill, another Python or a moved folder may have come between.
environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2> /dev/null \
		|| { echo "Python 3.10 or newer is needed; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) .ci/environment.py $(VENV) $(PYTHON)

demo: environment
	$(BIN)/cq-table demo paths=demo out=runs/demo/report engine=$$($(BIN)/python -c '$(ENGINE)')

speed: environment
	$(BIN)/python experiments/speed/run.py

test: environment
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Tables of the paper, each from its file in conf/table: what is recorded already is not run again.
$(TABLES): environment
	$(BIN)/cq-table $@ --grid paths=results out=results

tables: $(TABLES)

clean:
	rm -rf runs
