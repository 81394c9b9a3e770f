# Every command that a person needs. `make` alone lists them.

CARGO ?= cargo
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
export CARGO_TERM_COLOR ?= auto

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what building, demo and tests need (Debian 12; idempotent)
	@scripts/setup.sh build run

.PHONY: build
build: ## build everything, BPF programs included
	@scripts/setup.sh build
	$(CARGO) build --workspace --bins

.PHONY: demo
demo: ## real policies on real pods, step by step (root; under a minute after the build)
	@scripts/setup.sh build run
	$(CARGO) build --quiet --package oxilium --package oxilium-cni --package oxilium-e2e --bins
	@target/debug/oxilium-demo

.PHONY: test
test: ## unit, property, program and scenario tests (root for the last two; skips say why)
	@scripts/setup.sh build run
	$(CARGO) build --workspace --bins
	@scripts/test-layout.sh
	$(CARGO) test --workspace

.PHONY: apiserver
apiserver: ## build etcd, kube-apiserver and kubectl from Go modules, once (Go 1.26; some minutes)
	@scripts/apiserver.sh >/dev/null

.PHONY: e2e-api
e2e-api: ## the tests on a real API server (also KUBEBUILDER_ASSETS; OXILIUM_API_SERVER=kubeconfig: the cluster of KUBECONFIG)
	@scripts/setup.sh build run
	@scripts/e2e-api.sh

.PHONY: test-chaos
test-chaos: ## the agent killed before and after every write that it makes (root; long; PLACES=sample is shorter)
	@scripts/setup.sh build run
	$(CARGO) build --workspace --bins
	OXILIUM_CHAOS=$(or $(PLACES),all) $(CARGO) test --workspace --test chaos -- --nocapture --test-threads 1

.PHONY: soak
soak: ## pods, policies, kills and tampering by chance; nothing may be left of them (root; MINUTES=60 SEED=1)
	@scripts/setup.sh build run
	$(CARGO) build --workspace --bins
	OXILIUM_SOAK_MINUTES=$(or $(MINUTES),60) OXILIUM_SEED=$(SEED) $(CARGO) test --workspace --test soak -- --nocapture

.PHONY: crds
crds: ## write the definitions of the custom resources, crds/yaml, from the types
	$(CARGO) run --quiet --package oxilium-crds --example definitions -- crds/yaml

.PHONY: e2e
e2e: ## a Kubernetes cluster out of namespaces, the chart installed, what its users do (root; SCENARIOS="seed-policies")
	@scripts/setup.sh build
	@scripts/e2e-cluster.sh $(SCENARIOS)

.PHONY: test-kernels
test-kernels: ## the kernel's tests on Linux 6.1 and 6.12 under QEMU (KERNELS="6.1 6.12")
	scripts/test-kernels.sh $(KERNELS)

.PHONY: fuzz
fuzz: ## every fuzz target for a while (SECONDS_EACH=15, TARGETS="packets")
	@scripts/fuzz.sh $(TARGETS)

.PHONY: mutants
mutants: ## known mistakes, each of which a test must catch (NAMES="no-source-check")
	@scripts/setup.sh build
	@scripts/mutants.sh $(NAMES)

.PHONY: bench
bench: ## what it costs, as ratios to doing without, in one run (root; SECTIONS="traffic" for a part)
	@scripts/setup.sh build run
	$(CARGO) build --release --package oxilium --package oxilium-cni --package oxilium-bench --bins
	@target/release/oxilium-bench $(SECTIONS)

.PHONY: bench-scale
bench-scale: ## the agent's start in a cluster of 50,000 endpoints, on a real API server (root; minutes)
	@$(MAKE) --no-print-directory bench SECTIONS=scale

.PHONY: bench-cluster
bench-cluster: ## kubectl apply until the kernel enforces, pods in a burst: on a cluster of namespaces (root; NODES=2)
	@scripts/setup.sh build
	$(CARGO) build --quiet --release --package oxilium-bench --bin oxilium-bench-cluster
	@THEN=target/release/oxilium-bench-cluster scripts/e2e-cluster.sh what-users-see

.PHONY: bench-policy
bench-policy: ## the policy engine on three worlds: parse, resolve, change, memory
	@scripts/setup.sh build
	$(CARGO) bench --package oxilium-manifest --bench policy_worlds -- --summary

.PHONY: chart
chart: ## the chart: helm's lint, what it comes to, what it refuses (builds helm once)
	@scripts/helm.sh >/dev/null
	OXILIUM_REQUIRE=helm $(CARGO) test --package oxilium-e2e --test chart

.PHONY: image
image: ## the image as an OCI archive, without docker (ARCHIVE=target/image/oxilium.tar NAME=...)
	@scripts/setup.sh build
	@scripts/image.sh $(ARCHIVE) $(NAME)

.PHONY: lint
lint: ## formatting, clippy, documentation, dependencies, layers, tree
	@scripts/setup.sh build lint
	scripts/lint.sh

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
