# Every target works from a fresh clone: it makes .venv and installs what it needs, once.

.PHONY: demo pictures matrix test test-slow test-cluster test-ranges lint types bench calibrate install clean
.DEFAULT_GOAL := help

BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo "make demo   the embedded study: profile, patch, report"
	@echo "make pictures  the report's pictures for the README, of the demo's and of a planted study (needs Chromium)"
	@echo "make matrix two families x algorithms and tasks, and whether they agree on the layers: half an hour"
	@echo "make test   lint, types, tests"
	@echo "make test-slow  every shipped recipe in small, runs that are killed, workers, analyses as notebooks: minutes"
	@echo "make test-cluster  eight processes on one study; 20 kills of workers and commands; two nodes of Ray; one run on two ranks: minutes"
	@echo "make test-ranges  the oldest and newest of all packages that pyproject.toml allows, without torch: equal files; the extras at theirs; minutes"
	@echo "make bench  run files against safetensors and sha256, CKA against torch-cka, analyses of 0.6B models, start-up, several workers, as ratios; maths verdicts: an hour"
	@echo "make calibrate how often the verdicts err, on simulated studies"
	@echo "make install, make lint, make types, make clean"

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(BIN)/python -m pip install -q pip
	$(BIN)/python -m pip install -q torch
	$(BIN)/python -m pip install -q -e . --group dev
	@touch $@

# What a newcomer sees: every run of the recipe, the C_l profile, every layer grafted into the base, one page.
demo: install
	$(BIN)/lensrl run runs/tiny.toml
	$(BIN)/lensrl contribution runs/tiny --figure runs/tiny/contribution.png
	$(BIN)/lensrl patch runs/tiny --from full-rl --layer all
	$(BIN)/lensrl report runs/tiny

pictures: install
	$(BIN)/python -m tests.show.pictures runs/tiny

# Does the ranking of layers hold across algorithms, tasks and families?
matrix: install
	OMP_NUM_THREADS=1 $(BIN)/lensrl run runs/matrix/*.toml
	$(BIN)/lensrl agree $(patsubst %.toml,%,$(wildcard runs/matrix/*.toml)) --figure runs/matrix/agreement.png

lint: install
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .

types: install
	$(BIN)/pyright --warnings

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile --durations 15 --durations-min 5  # a core each: models this small use no more

# What takes minutes: every shipped recipe in small, runs and workers that are killed, analyses as notebooks.
test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n auto --maxprocesses 8 --dist load

# Many processes on one study; workers and commands killed at random moments; two nodes of Ray, one of which dies; one
# run on two ranks. TRIALS=500 for a long night.
TRIALS := 20
test-cluster: install
	OMP_NUM_THREADS=1 TRIALS=$(TRIALS) $(BIN)/pytest -m cluster -n 3 --dist loadfile --timeout 3600 tests/compare tests/train

# Environments with the ends of the ranges stand over .venv. torch's ends too: python -m tests.ranges --torch (several GB)
test-ranges: install
	$(BIN)/python -m tests.ranges
	$(BIN)/python -m tests.extras

bench: install
	$(BIN)/python -m tests.benchmarks.store
	$(BIN)/python -m tests.benchmarks.writing
	$(BIN)/python -m tests.benchmarks.cka
	$(BIN)/python -m tests.benchmarks.analyses
	$(BIN)/python -m tests.benchmarks.models
	$(BIN)/python -m tests.benchmarks.sandbox
	$(BIN)/python -m tests.benchmarks.startup
	$(BIN)/python -m tests.benchmarks.one_run
	$(BIN)/python -m tests.benchmarks.workers
	$(BIN)/python -m tests.benchmarks.answers

calibrate: install
	OMP_NUM_THREADS=1 $(BIN)/python -m lensrl.judge.calibration

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
