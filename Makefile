# Two commands on a machine that has Python (3.10 or newer) and make:
#   make demo   the ablation of the paper's Table 5 on the bundled model, in minutes
#   make test   the default test suite
# Each creates the virtual environment and installs what it needs, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

unexport PYTHONDONTWRITEBYTECODE

.PHONY: environment demo test check clean tables table1 table2 table3 table4 table5 table6 table7 reconstruction \
	schedules

# Asked every time, in a fraction of a second: a kill, another Python or a moved folder may have come between.
environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 7))' 2> /dev/null \
		|| { echo "Python 3.10 or newer is needed; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) .ci/environment.py $(VENV) $(PYTHON)

demo: environment
	$(BIN)/cq-table table5 scale=demo paths=demo out=runs/demo/report

test: environment
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

check: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Tables of the paper, from records: what is recorded already is not run again. `make tables` fills all of them.
FILL = $(BIN)/cq-table $@ paths=results out=results seed=0,1,2

table1: environment
	$(FILL) sample=images300 budget.cache_interval=3,10,15

table2: environment
	$(FILL) sample=images100 latency=none evaluate=paired budget.num_steps=100

table3: environment
	$(FILL) sample=images300 budget.cache_interval=2,5

table4: environment
	$(FILL) sample=images300 budget.cache_interval=2,5,10

table5: environment
	$(FILL) sample=images700 budget.cache_interval=5,10,20 budget.weight_bits=8,4

table6: environment
	$(FILL) sample=images100 latency=none evaluate=paired budget.num_steps=100 budget.cache_interval=5,10,15,20

table7: environment
	$(FILL) sample=images100 latency=none budget.cache_interval=2,3,5,10

reconstruction: environment
	$(FILL) sample=images100 latency=none

SCHEDULES = $(FILL) budget.cache_interval=2,3,5,10,20
schedules: environment
	$(SCHEDULES) sample=images100 latency=none model=ldm_mini
	$(SCHEDULES) sample=images300 model=dit_mini budget.num_steps=50
	$(SCHEDULES) sample=images100 latency=none model=sd_mini sampler=plms budget.num_steps=50

tables: table1 table2 table3 table4 table5 table6 table7 reconstruction schedules

clean:
	rm -rf runs
