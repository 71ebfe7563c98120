# The names of the commands. Each one is a plain line that also works without make.

CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help build demo test lint fmt docs

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build every program, with debug checks
	$(CARGO) build --workspace --locked

demo: ## run the main job end to end on real input
	$(CARGO) build --release --locked -p pyramid -p orders
	docs/examples/orders/demo.sh

# The process suite starts the programs that are built here.
test: build ## run every suite
	$(CARGO) test --workspace --locked --no-fail-fast

lint: ## check format, lints and documentation; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

fmt: ## format
	$(CARGO) fmt --all

docs: ## build the documentation of the code
	$(CARGO) doc --workspace --no-deps --document-private-items --locked
