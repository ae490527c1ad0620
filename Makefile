# Everything a fresh machine needs lands in .venv; the tested versions are in .constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
QUICK := tests/prompts tests/results tests/runner tests/images tests/models/hub/test_cache.py tests/models/memory \
	tests/backends/daemon tests/engine/test_batching.py tests/engine/test_label_trie.py tests/serve/test_scheduler.py \
	tests/test_architecture.py tests/test_config.py tests/test_jsonl.py tests/test_lru.py --ignore=tests/images/test_fuzz.py
.DEFAULT_GOAL := all

.PHONY: all help demo test quick test-browser test-buckets test-cluster soak check golden accuracy shapes bench bench-gpu clean

all: check test

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml .constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint .constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint .constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY) ## caption, question, classify, write and follow examples, offline, on the sample pictures
	@BIN=$(CURDIR)/$(BIN) sh idefics_cli/shapes/demo.sh

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n 2

quick: $(READY) ## the tests that load no weights, in under a minute
	$(BIN)/python -m pytest -n 2 $(QUICK)

test-browser: $(READY) ## the page of `idefics review` in Debian's chromium, and what axe-core finds of it
	[ -e .axe/package/axe.min.js ] || (mkdir -p .axe && cd .axe && npm pack --silent axe-core@4 && tar xzf axe-core-*.tgz)
	$(BIN)/python -m pytest -m browser tests/review

test-buckets: $(READY) ## sources and outputs in a bucket, of an S3 that moto serves here
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint .constraints.txt --editable '.[buckets]'
	$(BIN)/python -m pytest -m buckets tests/images/test_buckets.py

test-cluster: $(READY) ## a run on a Ray cluster of three nodes on this machine, which lose and win workers; needs unshare
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint .constraints.txt --editable '.[cluster]'
	$(BIN)/python -m pytest -m cluster tests/backends/cluster

soak: $(READY) ## the long tests: 10,000 images, 10,000 calls, fifty kills, half an hour of mutants, how busy the model is kept
	$(BIN)/python -m pytest -m slow -s tests/test_soak.py tests/backends tests/cli tests/serve tests/models/test_folder_check.py tests/scale tests/review tests/images tests/records \
		tests/engine/test_cost.py tests/shapes/test_calibration.py

check: $(READY) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

golden: $(READY) ## rewrite the golden files; read the difference before committing it
	$(BIN)/python -m pytest -q --update-golden -k golden

accuracy: $(READY) ## how often the embedded checkpoint is right, 500 scenes a row
	$(BIN)/python -m idefics_cli.shapes.training.accuracy

shapes: $(READY) ## train the embedded checkpoint again, 89 minutes on two cores and an hour on one
	$(BIN)/python -m idefics_cli.shapes.training.train --output .training/settled
	$(BIN)/python -m idefics_cli.shapes.training.train --from .training/settled --phase answers

bench: $(READY) ## measure this machine on random weights, about twelve minutes on two idle cores
	@$(BIN)/idefics bench --random-weights small

bench-gpu: $(READY) ## how fast a GPU writes answers: random IDEFICS 9B and Idefics2 8B, bfloat16 and 4 bits
	@for weights in idefics-9b idefics2-8b; do for bits in --dtype=bfloat16 --4bit; do \
		$(BIN)/idefics bench --decoding --random-weights $$weights $$bits --device cuda || exit; done; done

clean: ## remove the environment and caches
	rm -rf .venv .axe .pytest_cache .mypy_cache .ruff_cache .hypothesis
