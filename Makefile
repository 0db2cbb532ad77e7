# Every target brings up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help hello reproduce figures claims readme models doctor sweep new site site-environment test test-numbers lint bench lab clean distclean environment FORCE
.SUFFIXES:

PYTHON ?= python3
VENV ?= .venv
PY ?= $(VENV)/bin/python

# Parameters travel in the environment, so that no shell has to quote them, and under names of their own, so that make does not expand what they hold.
NAMES := MODEL BASE POST REASONER DATA TIER N SEED DEVICE DTYPE BATCH_TOKENS REMOTE TEMPLATE DATE P RUN VERDICT PLAN SWEEP FIG STYLE FORMAT
export COMPANION_GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
$(foreach n,$(sort $(NAMES) $(COMPANION_GIVEN)),$(eval export COMPANION_PARAM_$(n) = $$(value $(n))))
unexport $(NAMES) $(COMPANION_GIVEN)

# This checkout's library and this environment's packages and kernel, whatever else the user's settings name.
export PYTHONPATH := $(CURDIR)/lib
export PYTHONNOUSERSITE := 1
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH JUPYTER_DEFAULT_PROVISIONER_NAME PYTHONHOME PYTHONSTARTUP PYTHONSAFEPATH PYTHONWARNINGS PYTHONOPTIMIZE
ifeq ($(filter /%,$(XDG_CACHE_HOME)),)
unexport XDG_CACHE_HOME  # a relative one is to be ignored, says its specification
endif

READY := $(if $(filter $(VENV)/bin/python,$(PY)),$(VENV)/.ready)
environment: $(READY)

$(VENV)/.ready: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: Python 3.11 to 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=python3.12, say" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "setting up $(VENV): about 2.4 GB, a few minutes, once"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m refusal.base.pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(VENV)/bin/python -m refusal.base.pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# For what needs no package: the environment's Python where there is one; none is set up for it.
ANY = $(or $(wildcard $(PY)),$(PYTHON))
# What the site is made with, and what tests it in a browser; without it `make test` skips those tests.
SITE_READY := $(if $(READY),$(VENV)/.ready-site)
site-environment: $(SITE_READY)

$(VENV)/.ready-site: $(VENV)/.ready requirements-site.txt constraints-site.txt
	@echo "adding what the site is made with to $(VENV): about 250 MB, once"
	@$(VENV)/bin/python -m refusal.base.pip install --quiet --disable-pip-version-check -r requirements-site.txt
	@touch $@

help:
	@$(ANY) -m refusal.run.cli help

help-%: FORCE
	@$(ANY) -m refusal.run.cli help $*

hello reproduce figures claims readme models doctor sweep new: $(READY)
	@$(PY) -m refusal.run.cli $@

site: $(SITE_READY)
	@$(PY) -m refusal.run.cli $@

nb-%: $(READY) FORCE
	@$(PY) -m refusal.run.cli nb $*

test: $(READY)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

# The tests of numbers as a processor of the other kind runs them: without bfloat16 arithmetic where this one has it, with it where it has none.
test-numbers: $(READY)
	@COMPANION_BFLOAT16=$$($(PY) -c 'from refusal.base.machine import cpu_has_bfloat16; print(int(not cpu_has_bfloat16()))') \
	  OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile tests/test_numbers.py tests/test_tracing.py tests/test_rows.py tests/test_planted.py tests/test_cliff.py \
	    tests/test_pair.py tests/test_doctor.py tests/test_guard.py tests/test_ideal_01.py tests/test_ideal_02.py tests/test_ideal_02b.py tests/test_last.py \
	    tests/test_ideal_04.py tests/test_ideal_05.py tests/test_ideal_06.py tests/test_ideal_07.py tests/test_ideal_08.py tests/test_ideal_09.py \
	    tests/test_noncompliance_data.py tests/test_soft_prompt.py tests/test_preference.py tests/test_stems.py tests/test_vision.py

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --quiet --check lib tests || { echo "error: some files are not formatted; $(PY) -m ruff format lib tests does it" >&2; exit 1; }
	@$(PY) -m ty check lib
	@$(PY) -m nbstripout --verify notebooks/*.ipynb || { echo "error: these notebooks hold outputs, which are not committed" >&2; \
	  echo "  take them out: $(PY) -m nbstripout notebooks/*.ipynb" >&2; exit 1; }

bench: $(READY)
	@$(PY) -m refusal.run.bench

lab: $(READY)
	@$(PY) -m jupyterlab --ip 127.0.0.1 --notebook-dir . --LabApp.default_url=/lab/tree/notebooks/index.md \
	  --LabApp.app_settings_dir=notebooks/.lab --log-level WARN --LabApp.log_level=WARN $(if $(filter 0,$(shell id -u)),--allow-root)

clean:
	@$(ANY) -m refusal.run.clean

distclean:
	@$(ANY) -m refusal.run.clean all
	rm -rf $(VENV)
