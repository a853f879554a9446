# Chainroom: make run, make test.  Needs make and Python >= 3.11, nothing else; .venv holds the rest.

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
# Else each of the hundreds of clients that the tests start compiles the program anew.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# At most so many runs of each of `make fuzz`'s harnesses, for at most so long.
RUNS ?= 10000000
SECONDS ?= 20

.PHONY: help run install test torture fuzz bench docs wheelhouse clean

help:
	@echo 'make run         start a relay on this computer and chat (ARGS="--name alice" adds flags)'
	@echo 'make install     only what running needs, into .venv'
	@echo 'make test        everything that checks the project'
	@echo 'make torture     the long runs: many clients, many lines, joins and leaves under load'
	@echo 'make fuzz        bytes that no reader expects, guided by coverage (SECONDS=3600 RUNS=10000000)'
	@echo 'make bench       the relay beside redis, nats, mosquitto; then a client and a chain (ARGS=--quick)'
	@echo 'make docs        man pages, completions and the recording in the README, from the program'
	@echo 'make wheelhouse  all that a computer without a network needs, in the folder wheelhouse'
	@echo '                 (for others than this: PLATFORM=win_amd64, macosx_11_0_arm64, linux_x86_64 or'
	@echo '                 linux_aarch64, and PYTHON_VERSION=3.12)'
	@echo 'make clean       remove .venv and everything made'

run: $(VENV)/.run
	@exec $(BIN)/python chat_client.py --host $(ARGS)

install: $(VENV)/.run

test: $(VENV)/.test
	@echo '== ruff' && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo '== mypy' && $(BIN)/mypy --no-error-summary *.py tests benchmarks
	@echo '== pytest' && $(BIN)/python -m pytest -q -n 4 --dist worksteal $(ARGS)

torture: $(VENV)/.test
	@$(BIN)/python -m pytest -q -m torture $(ARGS)
	@$(BIN)/python tests/torture_relay.py

# Each harness of tests/readers.py in turn (ONLY='frames payload': these).
fuzz: $(VENV)/.run
	@$(PIP) install --group fuzz
	@$(BIN)/python tests/fuzz.py all $(RUNS) $(SECONDS) $(ONLY)

bench: build/loadgen build/attack $(VENV)/.test
	@$(BIN)/python benchmarks/bench_relay.py $(ARGS)
	@$(BIN)/python benchmarks/bench_chat.py
	@$(BIN)/python benchmarks/bench_chat.py --profile
	@$(BIN)/python benchmarks/bench_chain.py

docs: $(VENV)/.test
	@$(BIN)/python docs/make_man_and_completions.py
	@$(BIN)/python docs/make_recording.py

# What pip calls the computers that PLATFORM names; its wheels for Linux go by two tags.
PLATFORMS = $(foreach tag,2_28 2_17,$(PLATFORM:linux_%=manylinux_$(tag)_%))

# The wheel is named as a file, since an index may know another chainroom.
wheelhouse: $(VENV)/.run
	@rm -rf wheelhouse
	@$(PIP) wheel --no-deps --wheel-dir wheelhouse .
	@$(PIP) download --dest wheelhouse --only-binary=:all: $(PLATFORMS:%=--platform %) \
		$(PYTHON_VERSION:%=--python-version %) "$$(echo wheelhouse/chainroom-*.whl)[full]"
	@printf '%s\n' 'Copy this folder to the other computer, and there, beside it:' '' \
		'    python3 -m venv chat' \
		"    chat/bin/pip install --no-index --find-links wheelhouse 'chainroom[full]'" '' \
		'Then chat/bin/chainroom --help (on Windows python, and chat\Scripts for chat/bin).' \
		>wheelhouse/README.txt
	@ls wheelhouse

# In C, since a load generator in Python would measure itself.
build/%: benchmarks/%.c
	@test "$$(uname)" = Linux || { echo 'make bench needs Linux' >&2; exit 1; }
	@command -v gcc >/dev/null || { echo 'make bench needs a C compiler' \
		'(on Debian and Ubuntu: apt install gcc libc6-dev)' >&2; exit 1; }
	@mkdir -p build
	@gcc -O2 -std=gnu11 -Wall -Wextra -o $@ $<

# A stamp for each of the two sets, so that a second call starts at once and needs no network.
# setuptools would warn that the folder's modules are imported from the folder: that is the point.
$(VENV)/.run: $(VENV)/.made
	@echo 'Installing chainroom into $(VENV) ...'
	@PYTHONWARNINGS=ignore $(PIP) install --editable '.[full]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo 'Installing what the tests need ...'
	@$(PIP) install --group dev
	@sh tests/apt_install.sh chromium 'the test of the exported page' \
		chromium-browser google-chrome chrome
	@sh tests/apt_install.sh jq 'the test of the session in docs/JSON.md'
	@touch $@

$(VENV)/.made: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Chainroom needs Python 3.11 or newer with venv' \
		'(on Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

clean:
	rm -rf $(VENV) build dist wheelhouse *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
