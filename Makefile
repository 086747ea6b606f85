.PHONY: help setup sample test lint format ci

help:
	@echo 'make setup    create .venv'
	@echo 'make sample   train and evaluate the sample model'
	@echo 'make test     run all tests'
	@echo 'make lint     check the code style'
	@echo 'make format   format the Python files'
	@echo 'make ci       run all checks, on all Pythons found'

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
