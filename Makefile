# The tasks of a developer; `make` alone lists them.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help install check format test fast train docs serve pages tutorial clean

help: ## list these targets
	@awk -F "## " '/^[a-z]+:.*## / {split($$1, name, ":"); printf "  make %-10s %s\n", name[1], $$2}' $(firstword $(MAKEFILE_LIST))

install: ## the package with the tools of a developer, and of the site
	$(PYTHON) -m pip install -c constraints.txt -e ".[dev,docs]"

check: ## lint, format and types, as in CI
	ruff check .
	ruff format --check .
	mypy

format: ## correct what can be corrected
	ruff check --fix .
	ruff format .

test: ## all tests but the exhaustive ones
	$(PYTHON) -m pytest

fast: ## those that start no process
	$(PYTHON) -m pytest -m "not process and not exhaustive"

train: ## the main job: experience replay on split MNIST
	$(PYTHON) train.py model=er dataset=seq-mnist checkpoint.save=true

docs: ## the site, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

serve: ## the site at http://127.0.0.1:8000, as it is being written
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs serve

pages: ## write the generated pages again
	$(PYTHON) scripts/options_page.py
	$(PYTHON) scripts/reliability.py

tutorial: ## execute the tutorial and write its notebook
	$(PYTHON) scripts/make_tutorial.py

clean: ## remove caches and builds; runs in outputs/ stay
	rm -rf build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
