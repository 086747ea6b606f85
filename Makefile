.PHONY: help setup sample test lint format ci

help:
	@echo 'make setup    make .venv'
	@echo 'make sample   train and evaluate the small model on drawn data'
	@echo 'make test     run the tests'
	@echo 'make lint     check the style'
	@echo 'make format   put the Python files in shape'
	@echo 'make ci       all checks, for all Pythons'

setup:
	bash scripts/setup.sh

sample:
	bash scripts/train_1p.sh --sample

test:
	bash tests/run.sh

lint:
	bash .ci/lint

format:
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

ci:
	bash .ci/run
