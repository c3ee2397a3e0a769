# Needs Python 3.11 to 3.13, git and make. Each target first makes the environment that it works in:
# .venv, or .venv-<version> for another interpreter (make test PYTHON=python3.13).

PYTHON ?=
UV ?= uv
WORKERS ?= 2
PYTEST_ARGS ?=
EXTRAS = test
DEMO_PROMPT = Find all TODO comments, fix the easiest one and the failing test

VENV := $(if $(PYTHON),.venv-$(shell '$(PYTHON)' -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null),.venv)
BIN := $(VENV)/bin

# A git hook that calls make sets the first three, and they would turn every git below to the wrong repository.
unexport GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE PYTHONHOME PYTHONPATH VIRTUAL_ENV

.PHONY: help demo test check bench labextension labextension-sources clean environment

help:
	@echo 'make demo    run an agent with sub-agents on a small repository; needs no key'
	@echo 'make test    run the tests (PYTEST_ARGS="-k ledger -x" goes to pytest, WORKERS=4 for more processes)'
	@echo 'make check   ruff, ruff format, mypy --strict, and the layers of the package'
	@echo 'make bench   measure starts, memory, fan-outs and overheads beside stock kernels; draws build/bench/fanout.png'
	@echo 'make labextension   build what JupyterLab loads from labextension/src; needs Node.js, as nothing else does'
	@echo 'make clean   remove the environments, the caches and what was built; recorded runs stay'
	@echo
	@echo 'PYTHON=python3.13 chooses the interpreter; UV= sets the environment up with pip although uv is there.'

# The example's commit is the same each time: earlier runs borrow its objects.
demo: environment
	@rm -rf build/pantry && mkdir -p build && cp -R examples/pantry build/pantry
	@cd build/pantry && git -c init.defaultBranch=main init -q && git add -A && \
		GIT_AUTHOR_DATE=2026-01-01T12:00:00Z GIT_COMMITTER_DATE=2026-01-01T12:00:00Z \
		git -c user.name=Pantry -c user.email=pantry@example.org -c commit.gpgsign=false commit -q --no-verify -m 'pantry 0.3.0'
	@echo 'The model is scripted (examples/demo.yaml), its costs with it; everything else is real.'
	@$(BIN)/rlm-nb run build/pantry -p '$(DEMO_PROMPT)' --model scripted:examples/demo.yaml --runs-dir runs
	@run=$$(ls -td runs/*/ | head -n 1); printf '%s\n' '' 'To look at what it made:' \
		"  the notebook  $${run}root.ipynb, in JupyterLab or VS Code: its links lead to the sub-agents' notebooks" \
		'  the agents    $(BIN)/rlm-nb tree last' \
		'  the edits     $(BIN)/rlm-nb diff last' \
		'  to have them  $(BIN)/rlm-nb apply last'

test: environment
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

check: environment
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --diff --quiet; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@out=$$($(BIN)/lint-imports) || { printf '%s\n' "$$out"; exit 1; }
	@echo 'check: ruff, ruff format, mypy --strict and the layers are fine'

bench: EXTRAS = test,bench
bench: environment
	@$(BIN)/python -m rlm_nb.bench

# What is built is kept in git, so that neither an installation nor a test needs Node.js; a test compares it with its sources.
labextension: EXTRAS = test,labextension
labextension: environment
	@cd labextension && npm ci --no-audit --no-fund --ignore-scripts && node_modules/.bin/tsc && \
		PATH="$(abspath $(BIN)):$$PATH" jupyter-builder build .
	@$(MAKE) --silent labextension-sources >labextension/built/sources.cksum

labextension-sources:
	@cd labextension && cat package.json package-lock.json tsconfig.json src/*.ts* style/* | cksum

clean:
	rm -rf .venv .venv-* build dist labextension/node_modules labextension/lib .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find rlm_nb tests examples -name __pycache__ -prune -exec rm -rf {} +

environment:
	@UV='$(UV)' EXTRAS='$(EXTRAS)' sh .ci/environment $(VENV) '$(PYTHON)'
