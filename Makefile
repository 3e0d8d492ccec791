# Two commands for a newcomer: `make quickstart` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
# Where the documentation is built; its contents are replaced.
SITE_DIR ?= site
# Where the data sets are built; empty means the default cache folder.
DATA_DIR ?=
# More flags for the training command, for example: make quickstart TRAIN_FLAGS=--config.train.num_steps=100
TRAIN_FLAGS ?=
EVAL_FLAGS ?=
SAMPLE_FLAGS ?=
SPEAK_FLAGS ?=
# A worker that crashes ends the tests: pytest-xdist may wait for ever for the one in its place.
PYTEST_FLAGS ?= -n 2 --dist loadfile --max-worker-restart=0

# Huge pages make a CPU faster: XLA asks for fresh memory at every step. Other systems than Linux
# ignore it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

DATA_DIR_FLAG = $(if $(strip $(DATA_DIR)),--data_dir=$(DATA_DIR))
SMOKE_DIR = $(VENV)/smoke

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test lint docs smoke clean

help:  ## Shows this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

quickstart: $(VENV)/.stamp-quickstart  ## Installs, lets a trained model speak, trains another to say the digits, evaluates, samples, writes a report.
	$(VENV)/bin/python -m launch.sample --pretrained=digits --workdir=$(WORKDIR)/pretrained --out=$(WORKDIR)/pretrained --label=cycle --num_samples=10 --length=280ms --overwrite $(SPEAK_FLAGS)
	$(VENV)/bin/python -m launch.train --config=configs/digits_steady.py --workdir=$(WORKDIR) $(DATA_DIR_FLAG) $(TRAIN_FLAGS)
	$(VENV)/bin/python -m launch.eval_likelihood --workdir=$(WORKDIR) --split=test $(DATA_DIR_FLAG) $(EVAL_FLAGS)
	$(VENV)/bin/python -m launch.sample --workdir=$(WORKDIR) --label=cycle --temperature=0.8 --num_samples=10 --length=280ms --num_real=10 --overwrite $(DATA_DIR_FLAG) $(SAMPLE_FLAGS)
	$(VENV)/bin/python -m launch.report --workdir=$(WORKDIR)
	@echo "Done. Open $(WORKDIR)/report.html in a browser."

test: $(VENV)/.stamp-test  ## Installs the test extra and runs the fast tests.
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.stamp-lint  ## Checks style, format, types and shell scripts.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/shellcheck .ci/run launch/pods/*.sh

docs: $(VENV)/.stamp-docs  ## Builds the documentation, site/index.html.
	$(VENV)/bin/mkdocs build --strict --site-dir $(SITE_DIR)

# The quickstart's five commands with two steps, a small model, few data and short clips.
smoke: $(VENV)/.stamp-quickstart  ## Runs the quickstart in miniature, in a temporary folder.
	rm -rf $(SMOKE_DIR)
	$(MAKE) --no-print-directory quickstart WORKDIR=$(SMOKE_DIR) \
	  TRAIN_FLAGS="--config.train.num_steps=2 --config.data.name=digits_tiny \
	    '--config.model.pool_factors=(16,)' '--config.model.layers=(1,1)' $(TRAIN_FLAGS)" \
	  SAMPLE_FLAGS="--length=320 $(SAMPLE_FLAGS)" SPEAK_FLAGS="--length=320"
	test -s $(SMOKE_DIR)/report.html
	rm -rf $(SMOKE_DIR)

clean:  ## Removes the environment, the documentation and the tools' caches; keeps runs and data.
	rm -rf $(VENV) build dist site *.egg-info .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than setup.py exactly when what setup.py asks for is installed.
$(VENV)/.stamp-quickstart: EXTRAS = digits,report
$(VENV)/.stamp-test: EXTRAS = test
$(VENV)/.stamp-lint: EXTRAS = lint
$(VENV)/.stamp-docs: EXTRAS = docs
$(VENV)/.stamp-%: setup.py | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@
