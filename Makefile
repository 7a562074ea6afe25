# `make demo` and `make test` need only Python >= 3.11; see `make help`.
# PYTHON=/path/to/python chooses the interpreter for .venv, WORKERS=N the number of test processes.

PYTHON ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
# One thread per worker, so that workers do not compete for cores; tests never use the network.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q
SPREAD := -n $(WORKERS) --dist worksteal

REAL := models/smollm2-135m
# Without a network the tests on a real model are skipped, which is said.
FETCH := [ -d $(REAL) ] || $(BIN)/python -m benchmarks.real_model $(REAL) || echo "The real model could not be fetched, so its tests are skipped." >&2

# Sizes of `make real`: two epochs of 48 training rows instead of three of 256, and 48 test rows instead of 160.
SMALL := --trainer.max_epochs 2 --data.max_rows 60 --data.max_test_rows 48

# The study of docs/when_talr_helps.md. Keys of earlier code that gives the same numbers, each with the reason: --same-code KEY
# a768...: before EWC, half fine-tuning, adapters other than LoRA, weights of the data and own samples; words-0.1-talr-2e-3-s0 run again had the same numbers, bit for bit.
# 8f82...: before BEMA and the text of non_finite.jsonl; words-0.1-filter-1e-3-s0 run again had the same 25 numbers, bit for bit.
# f8c0...: before prompt wordings, own metrics and a renamed class of the head; words-0.3-talr-5e-4-s0 (26 numbers) and words-0.1-kl-1e-3-s0 (32, KL) again the same.
STUDY := docs/when_talr_helps
REMEDIES := benchmarks/results/remedies-cpu
# Run a space of that comparison, or add its finished trials to a folder.
compare = $(BIN)/lit-talr sweep -c configs/experiment/lab_talr.yaml -c configs/eval/drift.yaml --space configs/sweep/$(1).yaml --out runs/$(1) --workers $(WORKERS) \
	--stored $(2) $(SAME_CODE)
add = [ ! -d runs/$(1) ] || $(BIN)/lit-talr report runs/$(1) $(if $(wildcard $(2)/results.parquet),--from $(2)) --out $(2)
SAME_CODE := --same-code a7687b5b5e91300d --same-code 8f82e0ed5cc9738e --same-code f8c0a8f609b1cc8d

.DEFAULT_GOAL := help
.PHONY: help setup demo real talr-study talr-results talr-page remedies-study remedies-results test fast test-real test-all check format wheel docs freeze clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf 'make %-16s %s\n' "$$name" "$$text"; done

setup: $(STAMP)  ## install everything that development needs into .venv
	@:

demo: $(STAMP)  ## set up, then run Standard and TALR on a small model; a few minutes
	@$(BIN)/lit-talr demo

real: $(STAMP) data $(REAL)  ## set up, make a real model, and run a small trade-off on real rows (docs/real.md)
	@$(PIP) install -c constraints.txt -e '.[eval]'
	@$(BIN)/lit-talr sweep -c configs/experiment/real_esci.yaml --space configs/sweep/real_small.yaml --out runs/real-small --workers $(WORKERS) $(SMALL)
	@$(BIN)/lit-talr report runs/real-small --out runs/real-small/report.html

talr-study: $(STAMP) runs/talr-warm/export  ## run what is left of the study of docs/when_talr_helps.md; hours, and it can be stopped at any time
	@for space in configs/sweep/talr/*.yaml; do \
		$(BIN)/lit-talr sweep -c configs/experiment/lab_talr.yaml --space $$space --out runs/talr --workers $(WORKERS) --stored $(STUDY) $(SAME_CODE) || { [ $$? -lt 128 ] || exit 1; failed=1; }; \
	done; [ -z "$$failed" ]

talr-results: $(STAMP)  ## add the finished trials of that study to docs/when_talr_helps
	@$(BIN)/lit-talr report runs/talr $(if $(wildcard $(STUDY)/results.parquet),--from $(STUDY)) --out $(STUDY)

remedies-study: $(STAMP)  ## run what is left of the comparison of benchmarks/results/remedies-cpu.md; two or three hours, and it can be stopped at any time
	@$(call compare,remedies,$(REMEDIES))
	@$(call compare,remedies_seeds,$(REMEDIES)/seeds)

remedies-results: $(STAMP)  ## add its finished trials to benchmarks/results/remedies-cpu; then `make docs` makes the page's tables
	@$(call add,remedies,$(REMEDIES))
	@$(call add,remedies_seeds,$(REMEDIES)/seeds)

talr-page: talr-results docs  ## the same, and make its tables and figures again

test: $(STAMP)  ## set up, check style and types, run the fast tests; those on two ranks run alone, since they are slow next to others
	@$(MAKE) --no-print-directory -j 2 check fast
	@$(PYTEST) -m "ranks and not slow"

fast: $(STAMP)
	@$(PYTEST) $(SPREAD) -m "not slow and not ranks and not real"

test-real: $(STAMP)  ## run the tests on a real model, which is fetched once (93 MB)
	@$(FETCH)
	@$(PYTEST) $(SPREAD) -rs -m "real and not slow"

test-all: check  ## the same with the slow tests, and those of lm-evaluation-harness, W&B and MLflow, which it installs
	@$(PIP) install -c constraints.txt -e '.[eval,loggers]'
	@$(PYTEST) $(SPREAD) -m "not ranks and not real"
	@$(PYTEST) -m ranks
	@$(FETCH)
	@$(PYTEST) $(SPREAD) -rs -m real

check: $(STAMP)  ## check style and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "Run 'make format'." >&2; $(BIN)/ruff format --check; exit 1; }
	@$(BIN)/mypy --no-error-summary

format: $(STAMP)  ## sort imports, fix lint errors where possible, and format
	@$(BIN)/ruff check --quiet --fix --exit-zero
	@$(BIN)/ruff format

wheel: $(STAMP)  ## build the source archive and the wheel in dist/
	@$(BIN)/python -m build --no-isolation --outdir dist . > dist.log 2>&1 || { cat dist.log >&2; rm -f dist.log; exit 1; }
	@rm -f dist.log
	@ls dist

docs: $(STAMP)  ## write docs/remedies.md from the code, and the tables of docs/study.md and others from their results
	@$(BIN)/python docs/make_remedies.py
	@$(BIN)/python -m docs.make_tables

freeze: $(STAMP)  ## write constraints.txt from the packages in .venv
	@{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -ivE '^(nvidia-|cuda-|triton|setuptools|lit[-_]talr)'; } > constraints.new
	@mv constraints.new constraints.txt
	@touch $(STAMP)

clean:  ## delete everything that is built here, .venv included; runs/ stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis lightning_logs
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

data:
	@if [ ! -d "$$LIT_TALR_DATA" ]; then echo "'make real' reads real rows: set LIT_TALR_DATA to a folder that holds them, or make data/ (docs/real.md says what goes into it)." >&2; exit 1; fi
	@ln -s "$$LIT_TALR_DATA" data

runs/talr-warm/export: | $(STAMP)
	@$(BIN)/lit-talr fit -c configs/experiment/lab_talr.yaml --trainer.callbacks+=HFExport --trainer.max_epochs 2 --data.train_size 512 --data.seed 100 \
		--seed_everything 100 --model.optimizer.lr 5e-4 --run runs/talr-warm --ckpt_path auto

$(REAL): | $(STAMP)
	@$(BIN)/python -m benchmarks.real_model $@

$(STAMP): setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes."
	@DS_BUILD_OPS=0 $(PIP) install --no-compile -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on all cores, where pip uses one; like pip it ignores files that are not Python
	@touch $@

$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "lit_talr needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not,none was found); try 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'." >&2; exit 1; fi; \
	"$$found" -m venv $(VENV) || { rm -rf $(VENV); echo "$$found cannot create a virtual environment (Debian and Ubuntu: install python3-venv)." >&2; exit 1; }
