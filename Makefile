# Two commands: `make demo` trains and compares on real text, `make test` passes every test. `make docs`
# builds the pages into a site, build/site/html. All work from a bare clone, twice in a row, and after an interrupted first try.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test docs examples external wheel clean

demo: .venv/.demo
	$(BIN)/plait study run demo
	$(BIN)/plait study show demo
	$(BIN)/plait study report demo

test: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal  # halves: what a file's tests share is made once

# Runs the notebooks at the size that they show, and keeps their outputs.
examples: .venv/.dev
	$(BIN)/python tests/docs/notebooks.py
	$(BIN)/ruff format examples

# Strict: what is linked, named or left without a docstring, and is not there, fails.
docs: .venv/.docs
	$(BIN)/python docs/site/build.py build/site

# Exported models in the tools of others, in an environment that has them and no Plait.
external: .venv/.dev .venv/.external
	PLAIT_EXTERNAL_PYTHON=$(CURDIR)/.venv/external/bin/python \
		TRANSFORMERS_SOURCE=$(CURDIR)/.venv/external/source $(BIN)/pytest -m external -s tests/interop/external

# With kernels for the common processors inside, compiled against the torch that is installed.
wheel: .venv/.demo
	@rm -rf build  # of a wheel before, with files that may be gone since
	$(BIN)/python -m plait.kernels.native
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(INSTALL) wheel
	$(BIN)/python -m wheel tags --remove --platform-tag linux_x86_64 dist/plait-*-none-any.whl
	@rm -rf build src/plait/kernels/native/compiled  # no part of other wheels

# A stamp is written only when everything before it went well, so a broken try is done again.
.venv/.demo: Makefile pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing Plait into .venv (once: a minute or two, and what downloading torch takes) …"
	$(INSTALL) -e '.[report,explore,hf]'
	@touch $@

.venv/.docs: Makefile pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing Plait and what builds its pages into .venv (once, about two minutes) …"
	$(INSTALL) -e '.[docs]'
	@touch $@

.venv/.dev: Makefile pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing Plait and what its tests need into .venv (once: some minutes, and what downloading torch takes) …"
	$(INSTALL) -e '.[dev]'
	@touch $@

.venv/.external: Makefile constraints.txt
	@echo "Installing the tools of others into .venv/external (once, two or three minutes) …"
	$(PYTHON) -m venv --clear .venv/external
	.venv/external/bin/python -m pip install --quiet -c constraints.txt \
		torch transformers trl peft accelerate 'lm-eval[hf]' pytest parameterized
	.venv/external/bin/python -m pip download --quiet --no-deps --no-binary transformers -c constraints.txt \
		--dest .venv/external transformers
	mkdir .venv/external/source
	tar -xzf .venv/external/transformers-*.tar.gz -C .venv/external/source --strip-components 1
	@touch $@

clean:
	rm -rf .venv build dist src/plait/kernels/native/compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis
