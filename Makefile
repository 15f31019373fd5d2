# The few commands a person needs; `make` lists them.

PREFIX ?= /usr/local
CARGO ?= cargo
PYTHON ?= python3

VENV := tests/python/.venv
REFERENCE := tests/.reference
REFERENCE_VERSION := 0.5.6
BINDING_VENVS := bindings-python/.venv
WHEELS := target/wheels
TEST_WHEELS := target/wheels-test
TOOLS := tests/.tools
DENY_VERSION := 0.20.2
# Cargo's target directory, which the environment or a configuration file may set.
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps --offline | \
	sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

.DEFAULT_GOAL := help
.PHONY: help run demo test soak fuzz lint fmt install wheel clean packages venv binding-venvs test-wheel reference deny
.NOTPARALLEL:

help: ## Lists these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
		printf 'make %-15s %s\n' "$$name" "$$what"; done

run: ## Builds and starts the broker on /tmp/busrt.sock and 127.0.0.1:9924; Ctrl-C ends it
	@echo 'Building busrtd. The first build takes one to two minutes.'
	@$(CARGO) build --release -p busrt --features server --bin busrtd
	@echo 'Starting the broker on /tmp/busrt.sock and 127.0.0.1:9924; Ctrl-C ends it.'
	@exec '$(TARGET)/release/busrtd' -B /tmp/busrt.sock -B 127.0.0.1:9924

demo: ## Runs a broker and a few clients that use every feature once
	@echo 'Building the demonstration. The first build takes one to two minutes.'
	@$(CARGO) run --release -p busrt-examples --bin demo

test: ## Installs missing tools, runs every check and test, and prints the counts
	@tests/run

soak: ## Runs five minutes of faults and kills, and two at full speed; SOAK_SECONDS, FLOOD_SECONDS, BUSRT_SEED
	SOAK_SECONDS=$${SOAK_SECONDS:-300} FLOOD_SECONDS=$${FLOOD_SECONDS:-120} $(CARGO) test --release --no-fail-fast -p busrt \
		--features server --test soak --test hostile_soak --test flood -- --ignored --nocapture

fuzz: ## Runs every fuzz target for FUZZ_SECONDS (600 each); FUZZ_TARGETS selects targets
	@fuzz/run $${FUZZ_SECONDS:-600} $${FUZZ_TARGETS:-}

lint: ## Checks formatting, clippy with every feature set, documentation, dependencies
	@tests/run lint

fmt: ## Formats all Rust code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path tests/interop/Cargo.toml
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

install: ## Installs busrtd and busrt, stripped, to $(DESTDIR)$(PREFIX)/bin; default PREFIX: /usr/local
	$(CARGO) build --release -p busrt --features server,cli --bins
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -s -m 755 '$(TARGET)/release/busrtd' '$(TARGET)/release/busrt' '$(DESTDIR)$(PREFIX)/bin'

wheel: binding-venvs ## Builds the wheel (Python 3.9 or later) and the source distribution of the Python modules in target/wheels
	rm -rf '$(WHEELS)'
	'$(BINDING_VENVS)/newest/bin/maturin' sdist --manifest-path bindings-python/Cargo.toml --out '$(WHEELS)'
	'$(BINDING_VENVS)/newest/bin/maturin' build --release --manifest-path bindings-python/Cargo.toml --out '$(WHEELS)'
	@ls '$(WHEELS)'

clean: ## Removes everything that was built or installed in this directory
	$(CARGO) clean --quiet
	rm -rf '$(VENV)' '$(BINDING_VENVS)' '$(REFERENCE)' '$(TOOLS)' fuzz/target fuzz/corpus tests/python/__pycache__ tests/python/.pytest_cache

# Installs the tools that the tests need besides Rust: a C compiler, a C++ compiler (for libFuzzer), and Python with venv.
# Debian's package manager is only called if something is missing.
packages:
	@missing=; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v c++ >/dev/null || missing="$$missing g++"; \
	command -v $(PYTHON) >/dev/null || missing="$$missing python3"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	[ -z "$$missing" ] && exit 0; \
	[ "$$(id -u)" = 0 ] && sudo= || sudo=sudo; \
	echo "Installing$$missing"; \
	$$sudo apt-get update -q && \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing

# Installs the Python clients of PyPI in a separate environment.
venv: packages $(VENV)/.complete

$(VENV)/.complete: tests/python/requirements.txt
	rm -rf '$(VENV)'
	$(PYTHON) -m venv '$(VENV)'
	'$(VENV)/bin/pip' install --quiet --disable-pip-version-check -r $<
	touch $@

# Creates the environments in which the Python binding is built and tested: one with the oldest Python that is found, and
# one with the newest. If there is only one Python, there is no environment `oldest`.
binding-venvs: packages $(BINDING_VENVS)/.complete

$(BINDING_VENVS)/.complete: bindings-python/tests/requirements.txt bindings-python/tools/interpreters.py
	rm -rf '$(BINDING_VENVS)'
	mkdir -p '$(BINDING_VENVS)'
	$(PYTHON) bindings-python/tools/interpreters.py > '$(BINDING_VENVS)/interpreters'
	set -e; for age in newest oldest; do \
		[ $$age = newest ] && end=tail || end=head; \
		if [ $$age = oldest ] && [ "$$(wc -l < '$(BINDING_VENVS)/interpreters')" = 1 ]; then continue; fi; \
		"$$($$end -n 1 '$(BINDING_VENVS)/interpreters')" -m venv "$(BINDING_VENVS)/$$age"; \
		"$(BINDING_VENVS)/$$age/bin/pip" install --quiet --disable-pip-version-check -r $<; \
	done
	touch $@

# Builds the wheel that the tests use. It is not optimized, like the other tested programs, so that their build is reused.
test-wheel: binding-venvs
	rm -rf '$(TEST_WHEELS)'
	'$(BINDING_VENVS)/newest/bin/maturin' build --quiet --profile dev --manifest-path bindings-python/Cargo.toml \
		--out '$(TEST_WHEELS)'
	set -e; for venv in '$(BINDING_VENVS)'/*/; do \
		"$${venv}bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps '$(TEST_WHEELS)'/*.whl; \
	done

# Installs the programs of the crate busrt 0.5.6, to test against. They are not optimized, which halves the build time.
reference: packages $(REFERENCE)/bin/busrtd-$(REFERENCE_VERSION)

$(REFERENCE)/bin/busrtd-$(REFERENCE_VERSION):
	CARGO_TARGET_DIR='$(REFERENCE)/target' $(CARGO) install --quiet --debug busrt --version '=$(REFERENCE_VERSION)' \
		--features server,cli --root '$(REFERENCE)' --force --no-track
	rm -rf '$(REFERENCE)/target'
	ln -sf busrtd $@

# Installs cargo-deny, which checks the dependencies. It is not optimized, which halves the build time: it runs for a
# second.
deny: packages $(TOOLS)/bin/cargo-deny-$(DENY_VERSION)

$(TOOLS)/bin/cargo-deny-$(DENY_VERSION):
	CARGO_TARGET_DIR='$(TOOLS)/target' CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --quiet --debug --locked \
		--no-default-features cargo-deny --version '=$(DENY_VERSION)' --root '$(TOOLS)' --force --no-track
	rm -rf '$(TOOLS)/target'
	ln -sf cargo-deny $@

# Benchmarks: see bench/README.md. They need an optimized build of the reference broker.
BENCH_REFERENCE := target/bench/reference
.PHONY: bench bench-attack bench-micro bench-pairs bench-reference

bench: ## Compares our broker with its peers and writes docs/performance.md; BENCH=--quick for a trial
	@$(PYTHON) bench/run.py $(BENCH)

bench-attack: ## Measures the effect of hostile clients on others; BENCH='--attack KIND,...' selects kinds
	@$(PYTHON) bench/run.py --attack $(BENCH)

bench-pairs: ## Compares with the build that BASE_BUSRTD names, in 20 pairs of runs; fails if a row is slower
	@$(PYTHON) bench/run.py --pairs $(BENCH)

bench-micro: ## Runs the criterion benchmarks: codec, matching, routing and fan-out; BENCH=... is passed to criterion
	$(CARGO) bench -p busrt --features full --bench codec --bench matching --bench routing -- $(BENCH)

# Compares the optimized Python modules, in a separate environment, with the packages of PyPI and with other systems.
BENCH_PYTHON := target/bench/python
.PHONY: bench-python
bench-python: venv ## Measures the Python modules and writes docs/performance-python.md; BENCH='--runs 1 --rows ...' for a trial
	$(CARGO) build --quiet --release -p busrt --features server --bin busrtd
	[ -x '$(BENCH_PYTHON)/bin/python' ] || $(PYTHON) -m venv '$(BENCH_PYTHON)'
	'$(BENCH_PYTHON)/bin/pip' install --quiet --disable-pip-version-check maturin nats-py redis pyzmq
	rm -rf '$(WHEELS)-bench'
	'$(BENCH_PYTHON)/bin/maturin' build --quiet --release --manifest-path bindings-python/Cargo.toml --out '$(WHEELS)-bench'
	'$(BENCH_PYTHON)/bin/pip' install --quiet --disable-pip-version-check --force-reinstall --no-deps '$(WHEELS)-bench'/*.whl
	@$(PYTHON) bindings-python/benches/run.py --broker '$(TARGET)/release/busrtd' --ours '$(BENCH_PYTHON)/bin/python' \
		--pypi '$(VENV)/bin/python' $(if $(BENCH),$(BENCH),--write docs/performance-python.md)

bench-reference: $(BENCH_REFERENCE)/bin/busrtd ## Installs the reference broker for `make bench`

$(BENCH_REFERENCE)/bin/busrtd:
	CARGO_TARGET_DIR='$(BENCH_REFERENCE)/target' $(CARGO) install --quiet busrt --version '=$(REFERENCE_VERSION)' \
		--features server,cli --root '$(BENCH_REFERENCE)' --no-track
	rm -rf '$(BENCH_REFERENCE)/target'
