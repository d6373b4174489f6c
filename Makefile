# The commands of everyday work. `make` alone lists them.
#
#   PYTHON=/path/to/python make setup     another Python (3.10 to 3.13) than the one it finds
#   make test ARGS="-k geometry"          further arguments for pytest

PY := .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-tfio demo test lint format clean

help: ## lists these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: ## creates .venv and installs what the project needs; nothing if that is done
	@bash constraints/install.sh main .venv test,dev,formats

setup-tfio: ## the same for the tensorflow-io lane, in .venv-tfio
	@bash constraints/install.sh tfio .venv-tfio tfio,test,formats

demo: setup ## the main job on the shipped sample: train, score, export, serve, segment
	@$(PY) demo.py

test: setup ## every test but the slow ones (all: ARGS='-m "slow or not slow"')
	@$(PY) -m pytest $(ARGS)

lint: setup ## format, lint, imports and types, changing nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	.venv/bin/lint-imports
	$(PY) -m mypy

format: setup ## puts the code into the project's format
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## removes environments and caches; runs, results and exports stay
	rm -rf .venv .venv-tfio .venv-rivals build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .cache
	find . -name __pycache__ -prune -exec rm -rf {} +
