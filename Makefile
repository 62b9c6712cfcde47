# Everything a person does here. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
WORKERS ?= 2
SEEDS ?= 1000
REQUESTS ?= 2000
SAMPLES ?= 10
SEED ?= 1

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' Makefile | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: ## .venv with the pinned packages, and the system packages of the tests
	@scripts/setup.sh dev
	@scripts/install-system-packages.sh

demo: ## the main job on real documents while providers and the site itself are killed
	@scripts/setup.sh run
	$(BIN)/outlast demo

check: setup ## formatting, lint, types, import rule, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -q -m "not slow"

test: setup ## all tests, against real servers
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -q

lint: setup ## check without the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

simulate: ## many seeded simulations of a site: make simulate SEEDS=10000, or ARGS="--minutes 5 --keep"
	@scripts/setup.sh dev
	$(BIN)/python -m outlast.testing.simulation --seeds $(SEEDS) $(ARGS)

nodes: setup ## three nodes of one site killed and restarted under load, longer than the tests: make nodes REQUESTS=2000
	OUTLAST_NODES_REQUESTS=$(REQUESTS) $(BIN)/pytest -q -rP tests/integration/test_postgres_nodes_site_whole.py

powerloss: setup ## power cuts and failing disks at every point, more of them than the tests: make powerloss SAMPLES=50
	POWERLOSS_SAMPLES=$(SAMPLES) POWERLOSS_ROUNDS=12 POWERLOSS_BITS=10 POWERLOSS_STRIDE=1 POWERLOSS_SEED=$(SEED) \
	  $(BIN)/pytest -n $(WORKERS) --dist worksteal -q -rP tests/integration/test_crash_power_loss.py \
	  tests/integration/test_crash_store_and_archive.py tests/integration/test_crash_disk_faults.py \
	  tests/unit/log/test_archive_crash.py tests/unit/blob/test_blob_crash.py

outages: ## PostgreSQL under load: sessions cut, crashes, failover, a snapshot held for 60 s
	@scripts/setup.sh dev
	OUTLAST_SNAPSHOT_S=60 OUTLAST_OUTAGES=4 $(BIN)/pytest -q tests/integration/test_postgres_ha.py tests/integration/test_postgres_ha_outages.py tests/integration/test_postgres_ha_site.py

bench: ## measure against peers, side by side; writes docs/explain/performance.md
	@scripts/setup.sh bench
	$(BIN)/python bench/run.py

format: setup ## put the code in its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## pin the dependencies again, with hashes; UPGRADE=1 takes newer ones
	@scripts/setup.sh dev
	scripts/lock.sh

observability: setup ## rules, dashboard and metrics reference, made again
	$(BIN)/outlast slo rules deploy/observability/slo.toml -o deploy/observability/rules.yml
	$(BIN)/outlast slo dashboard deploy/observability/slo.toml -o deploy/observability/dashboard.json
	$(BIN)/python docs/reference/make_metrics.py

clean: ## remove what was made here, the environment too
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist demo-data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup demo check test lint simulate outages nodes powerloss bench format lock observability clean
