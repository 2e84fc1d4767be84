# One word each. Needs Python 3.11+ with pip, and make; everything else goes into .venv, once.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick lint types docs clean

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

setup: $(STAMP)  ## install everything into .venv (the other targets do it by themselves)

demo: $(STAMP)  ## videos → Uni-STG → train → evaluate → ground an archive → report, in runs/demo
	$(BIN)/spacevllm demo --out runs/demo

# Starting and waiting takes most of a pipeline's time: two files of tests side by side, in their order (those that take
# minutes come first), each side with a Ray of its own.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest $(TWO)

quick: $(STAMP)  ## the tests that take seconds
	$(BIN)/python -m pytest $(TWO) -m "not slow"

lint: types  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)  ## mypy
	$(BIN)/mypy

docs: $(STAMP)  ## every link and every command line in README and docs/ is real
	$(BIN)/python -m pytest tests/jobs/test_docs.py

clean:  ## remove .venv, the demo's output and caches
	rm -rf .venv runs/demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis

# uv installs in a third of pip's time; without it pip does. The find-links of pip's own configuration are passed on,
# because uv does not read them: machines that keep a CPU build of torch name it there. Bytecode is compiled now (pip does
# so by itself): Ray starts dozens of Python processes, and each would compile torch anew where it may not be cached.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say which: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python .venv install -q pip; }
	@echo "installing into .venv (a minute or two, once)"
	@$(BIN)/python -m pip install -q -c constraints.txt uv || echo "no uv to be had: pip will do"
	@if $(BIN)/uv --version >/dev/null 2>&1; then \
		UV_FIND_LINKS="$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)" \
			$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
		$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@
