# Everything a newcomer needs: `make demo` and `make test`. Each makes and reuses its own virtual
# environment with the pinned versions of constraints.txt. `make help` lists the targets.
#
#   make demo ARGS="--quick"                 arguments for the command
#   make test PYTHON=python3.12 VENV=.venv312   another interpreter, another environment

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SUITES ?=
SECONDS ?= 60
COUNT ?= 100000
MINUTES ?= 60

# The folders compression/ and cloud/ at the top must not be importable by their short names: from
# Python 3.14 the standard library has a package `compression` of its own.
export PYTHONSAFEPATH = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
ABS := $(abspath $(BIN))
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard ext/*.pyx ext/*.pxi ext/src/*.c ext/src/*.h)
# pins for what builds the package too, not only for what it needs when it runs
# setuptools warns of what PYTHONSAFEPATH already prevents
INSTALL := PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip install -q -c constraints.txt
TREE := build/lint

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-triton test-clients lint lint-style lint-tree lint-imports lint-types format bench soak proto lock clean fuzz fuzz-http2 fuzz-privacy asan clang portable arm64-kernels pi-test wheels

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(VENV)/stamp-venv: tools/preflight.py
	@command -v $(PYTHON) > /dev/null || { echo "edge-sdk: error: there is no $(PYTHON). On Debian:" \
	  "apt-get install python3 python3-venv python3-dev" >&2; exit 1; }
	@$(PYTHON) tools/preflight.py
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/stamp-build: $(VENV)/stamp-venv constraints.txt
	$(INSTALL) pip setuptools wheel cython
	@touch $@

$(VENV)/stamp-demo: $(VENV)/stamp-build $(SOURCES)
	@echo "installing edge-sdk[demo] into $(VENV) (one or two minutes the first time)"
	$(INSTALL) --no-build-isolation -e '.[demo]'
	@touch $@

$(VENV)/stamp-dev: $(VENV)/stamp-build $(SOURCES)
	@echo "installing edge-sdk[demo,dev] into $(VENV) (one or two minutes the first time)"
	$(INSTALL) --no-build-isolation -e '.[demo,dev]'
	@touch $(VENV)/stamp-demo $@

demo: $(VENV)/stamp-demo ## do the main job end to end on real images; report in demo-out/
	$(BIN)/edge-sdk demo --out demo-out $(ARGS)

test: $(VENV)/stamp-dev ## run the tests that together take minutes
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(VENV)/stamp-dev ## run the tests marked slow
	$(BIN)/python -m pytest -m slow --timeout 7200 $(ARGS)

test-triton: $(VENV)/stamp-dev ## ask ours and Triton the same: TRITON_PYTHON is a Python with nvidia-pytriton
	EDGE_SDK_TRITON_PYTHON="$(TRITON_PYTHON)" $(BIN)/python -m pytest -m triton -rs tests/cloud_server $(ARGS)

test-clients: $(VENV)/stamp-dev ## ask the server with gRPC's libraries for C++, Go, Java and Node, where their tools are
	$(BIN)/python -m pytest -m clients -rs tests/cloud_server $(ARGS)

lint: lint-style lint-imports lint-types ## ruff, cython-lint, import-linter, mypy

lint-style: $(VENV)/stamp-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(ABS):$$PATH" $(BIN)/cython-lint ext cloud  # it calls pycodestyle by name

# import-linter and mypy must see all rooms under the one name they are imported by; neither follows
# an editable install. So they run inside a freshly built tree (docs/decisions/002).
lint-tree: $(VENV)/stamp-dev
	rm -rf $(TREE)
	$(BIN)/python setup.py -q build_py --build-lib $(TREE)
	cp -Rp benchmarks/harness benchmarks/suites $(TREE)/

lint-imports: lint-tree
	cd $(TREE) && $(ABS)/lint-imports --config $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/build/import-linter

lint-types: lint-tree
	cd $(TREE) && $(ABS)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/build/mypy \
	  -p edge_sdk -p harness -p suites

format: $(VENV)/stamp-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/stamp-dev ## time ours against peers: make bench SUITES="softmax" ARGS="--json out.json"
	$(BIN)/python benchmarks/run.py $(SUITES) $(ARGS)

soak: $(VENV)/stamp-dev ## use a hybrid model for MINUTES while one thing after another breaks
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) $(ARGS)

fuzz: $(VENV)/stamp-dev ## feed damaged bytes to every reader and odd arguments to every kernel, for SECONDS
	$(BIN)/python tools/fuzz.py --seconds $(SECONDS) $(ARGS)

fuzz-http2: $(VENV)/stamp-dev ## fuzz the server's HTTP/2, led by what is run through, for SECONDS each: needs clang and pip install atheris
	for target in hpack http2; do $(BIN)/python tools/fuzz_http2.py $$target --seconds $(SECONDS) $(ARGS) || exit 1; done

fuzz-privacy: $(VENV)/stamp-dev ## ask under random privacy rules, and find no forbidden byte in COUNT inputs on the wire
	$(BIN)/python tools/fuzz_privacy.py --count $(COUNT) $(ARGS)

asan: $(VENV)/stamp-dev ## run the kernels' tests and the fuzzer under AddressSanitizer and UBSan
	$(BIN)/python tools/kernels.py asan

clang: $(VENV)/stamp-dev ## build the kernels with clang: the same bits, and their tests
	$(BIN)/python tools/kernels.py clang

portable: $(VENV)/stamp-dev ## build the kernels for a compiler they have never heard of: the same bits
	$(BIN)/python tools/kernels.py portable

arm64-kernels: $(VENV)/stamp-dev ## build the kernels for aarch64 and run them emulated: the same bits
	$(BIN)/python tools/kernels.py arm64

# what checks wheels is needed for nothing else
$(VENV)/stamp-wheels: $(VENV)/stamp-dev
	$(BIN)/python tools/lock.py requirements wheels > $(VENV)/wheels.txt
	$(INSTALL) -r $(VENV)/wheels.txt
	@touch $@

wheels: $(VENV)/stamp-wheels ## wheels for x86-64 and 64-bit ARM, and the source distribution, checked, in dist/
	rm -rf dist
	$(BIN)/python tools/wheels.py --all $(ARGS)

pi-test: $(VENV)/stamp-dev ## test the device side on emulated Raspberry Pis 3, 4 and 5
	$(BIN)/python tools/pi test $(ARGS)

proto: $(VENV)/stamp-dev ## compile edge_sdk/protocol/*.proto to descriptor files
	for file in edge_sdk/protocol/*.proto; do \
	  $(BIN)/python -m grpc_tools.protoc -I edge_sdk/protocol --descriptor_set_out="$${file%.proto}.desc" \
	    --include_imports "$$file" || exit 1; \
	done

lock: ## write constraints.txt anew from the newest versions that fit together (Python 3.11)
	@$(PYTHON) tools/preflight.py
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q --upgrade pip
	build/lock/bin/python tools/lock.py requirements demo dev ray wheels > build/requirements.txt
	build/lock/bin/python -m pip install -q -r build/requirements.txt
	build/lock/bin/python tools/lock.py constraints > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/lock

clean: ## remove what the build, the tests and the demo leave behind
	rm -rf build dist demo-out keywords-out $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find ext -name '*.so' -delete
