# Everything a checkout can do. On a fresh machine Python and make are enough; `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types imports docs wheel bench figures clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Stepwell needs Python 3.11 or newer; pass PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Making the environment $(VENV) (once)"
	$(PYTHON) -m venv $(VENV)

# One stamp for running, one for developing; each is redone only if the dependencies change.
$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) '$(TORCH)'
	$(PIP) -e .
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(VENV)/.ready
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready ## Run the main job on a generated stream, or on DATA=<name or file>
	$(BIN)/stepwell demo $(if $(DATA),--data $(DATA))

# Workers share the cores, so threads of theirs that wait must sleep.
test: $(VENV)/.ready-dev ## Run the tests; ARGS= goes to pytest
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/.ready-dev ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready-dev ## Mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.ready-dev ## Check the types, strictly
	$(BIN)/mypy

imports: $(VENV)/.ready-dev ## Check that imports point down
	$(BIN)/lint-imports

docs: $(VENV)/.ready-dev ## Build the documentation; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# The new environment sees the dependencies of $(VENV), but not its editable Stepwell: nested .pth files are not read.
wheel: $(VENV)/.ready-dev ## Build the wheel and import it outside the repository
	rm -rf dist build/wheel-check
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	$(BIN)/python -m venv build/wheel-check
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(build/wheel-check/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
	build/wheel-check/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	cd / && $(CURDIR)/build/wheel-check/bin/python -c 'import stepwell; assert "wheel-check" in stepwell.__file__, stepwell.__file__; print("imported", stepwell.__version__)'
	cd / && $(CURDIR)/build/wheel-check/bin/stepwell --help > /dev/null
	@ls dist

bench: $(VENV)/.ready-dev ## List the claims; CLAIM=<name> reruns one, QUICK=1 on a slice
	$(BIN)/python -m benchmarks $(CLAIM) $(if $(QUICK),--quick)

figures: $(VENV)/.ready-dev ## Draw what was measured, and write it into README and docs
	$(BIN)/python -m benchmarks.plots
	$(BIN)/python -m benchmarks.render

clean: ## Remove what was built, but not the environment
	rm -rf dist build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
