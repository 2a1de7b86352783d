# Every target is one line; CI runs the same ones. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup up down status test test-fast test-long lint format bench load clean lock release
export PYTHON

help:    ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
setup:   ## install what the lock files say, development tools included, into .venv
	@scripts/setup dev
up:      ## run the exchange until Ctrl-C; sets up what it needs
	@scripts/setup runtime && exec .venv/bin/exchange up $(ARGS)
down:    ## stop a running exchange; its data stays
	@scripts/setup runtime && exec .venv/bin/exchange down
status:  ## show every process, its health, and the URLs
	@scripts/setup runtime && exec .venv/bin/exchange status
test:    ## run all tests, four at a time, since many wait; ARGS are pytest's
	@scripts/setup dev && scripts/frontend test && { .venv/bin/python -m engine_worker.core_fast.build || true; } && exec .venv/bin/python -m pytest -n 4 $(ARGS)
test-fast: ## run what needs no server and no browser, two at a time; ARGS are pytest's
	@scripts/setup dev && exec .venv/bin/python -m pytest -n 2 --ignore tests/properties/test_planted_bugs.py --ignore tests/unit/monitoring tests/unit tests/properties tests/scenarios $(ARGS)
test-long: ## run the tests that take long and measure; ARGS are pytest's
	@scripts/setup dev && exec .venv/bin/python -m pytest -s --timeout 1800 $(ARGS) tests/long/*.py
lint:    ## check style, types, habits, and which way imports point
	@scripts/setup dev && .venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/lint-imports && .venv/bin/python -m pytest -q tests/unit/test_habits.py tests/unit/test_stored_exceptions.py tests/unit/test_document_links.py && scripts/frontend lint
format:  ## bring the code into shape
	@scripts/setup dev && .venv/bin/ruff check --fix && .venv/bin/ruff format && scripts/frontend format
bench:   ## measure; ARGS are those of `exchange bench`
	@scripts/setup runtime && exec .venv/bin/exchange bench $(ARGS)
load:    ## put load on the running exchange for a minute; ARGS are those of `exchange load`
	@scripts/setup dev && exec .venv/bin/exchange load $(ARGS)
clean:   ## remove .venv and caches; the exchange's data in .run stays
	@rm -rf .venv .venvs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis && find . -name __pycache__ -prune -exec rm -rf {} +
lock:    ## pin the newest versions that pyproject.toml allows
	@scripts/setup dev && scripts/lock
release: ## make VERSION of what is checked out: changelog, commit, tag
	@scripts/release tag $(VERSION)
