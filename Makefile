# CPC-SAM: every step from a fresh clone. `make` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed

CONFIG ?= training/configs/bbbc038.yaml
REPOSITORY ?= build/repository
PRECISION ?= fp32
TARGET ?= cpu
STARTED := $(shell date +%s)

# Threads that wait by spinning keep a core from whatever else the machine does, and from each other.
export OMP_WAIT_POLICY ?= PASSIVE
# The tests start hundreds of processes, each of which would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## Fine-tune, merge, export, serve and segment a real image; writes out/demo/
	CPCSAM_SETUP_S=$$(($$(date +%s) - $(STARTED))) $(PY) -m demo --out out/demo

# Tests of one file share a process, for their fixtures; the longest begin first.
PYTEST = $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: test
test: JOBS ?= 3  # a third works while two wait for the servers that they test
test: $(READY) ## Run all tests, the real Triton server's among them, in JOBS=3 processes
	$(PYTEST)

.PHONY: test-unit
test-unit: JOBS ?= 2
test-unit: $(READY) ## Run the tests that start no process, in JOBS=2 processes
	$(PYTEST) tests/unit

.PHONY: annotators
annotators: $(READY) ## Install the annotation tools under test into .tools/: make annotators [NAMES="label-studio ..."]
	$(PY) -m tools.annotators $(NAMES)

.PHONY: test-annotators
test-annotators: JOBS ?= 1
test-annotators: annotators ## Run the tests with Label Studio and the other annotation tools
	$(PYTEST) tests/integration/annotators

.PHONY: lint
lint: $(READY) ## Check style, layers, types and that the API serves the last release's clients
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(PY) -m mypy
	$(PY) -m tools.proto_compatibility tools/released .

.PHONY: sbom
sbom: $(READY) ## Write build/sbom.cdx.json, the bill of materials of .venv and the page
	$(PY) -m tools.supply_chain sbom

.PHONY: audit
audit: $(READY) ## Look up the locked packages in the index's database of vulnerabilities
	$(PY) -m tools.supply_chain audit

.PHONY: pretrain
pretrain: $(READY) ## Train the compact base anew: make pretrain [BBBC038=PATH]
	$(PY) -m training.pretrain training/configs/pretrain.yaml $(if $(BBBC038),data.bbbc038=$(BBBC038))
	$(PY) -m training.pretrain training/configs/pretrain_refine.yaml $(if $(BBBC038),data.bbbc038=$(BBBC038))

.PHONY: train
train: $(READY) ## Fine-tune a base with LoRA and CaPL: make train CONFIG=FILE [SET="key=value ..."]
	$(PY) -m training.train $(CONFIG) $(SET) || test $$? = 3  # best is the base, as the last line says

.PHONY: merge
merge: $(READY) ## Merge a run into one checkpoint, build/merged: make merge RUN=runs/NAME/best
	$(PY) -m export.merge --run $(or $(RUN),$(error give the run: make merge RUN=runs/NAME/best)) --out build/merged

.PHONY: export
export: $(READY) $(if $(RUN),merge) ## Convert build/merged to ONNX and a Triton repository: make export [RUN=runs/NAME/best] [TARGET=cpu|cuda] [PRECISION=fp32|fp16|int8] [IMAGES="FILE ..."]
	$(PY) -m export.to_onnx --merged build/merged --out build/onnx --precision $(PRECISION) --provider $(TARGET) $(if $(IMAGES),--images $(IMAGES))
	$(MAKE) repository

.PHONY: repository
repository: $(READY) ## Publish build/onnx as a version of the Triton repository: make repository [TARGET=cpu|cuda]
	$(PY) -m export.repository publish --onnx build/onnx --provider $(TARGET) --out build/repository$(if $(filter cuda,$(TARGET)),-cuda)

.PHONY: engines
engines: $(READY) ## Build TensorRT engines of build/onnx, judge them and publish build/repository-gpu; needs a GPU: make engines [IMAGES="FILE ..."]
	$(PY) -m export.build_engine --onnx build/onnx --out build/plans
	$(PY) -m export.check_engines --plans build/plans --merged build/merged --out build/engines $(if $(IMAGES),--images $(IMAGES))
	$(PY) -m export.repository publish --engines build/engines --golden build/onnx --out build/repository-gpu

.PHONY: check-parity
check-parity: $(READY) ## Compare vit_b at 1024 in ONNX Runtime with torch, on random tensors
	$(PY) -m export.check_parity --model-size vit_b --image-size 1024

.PHONY: check-tensorrt
check-tensorrt: $(READY) ## Build vit_b at 1024 ahead of time by TensorRT-RTX, which needs no GPU
	$(PY) -m export.check_tensorrt --model-size vit_b --image-size 1024

.PHONY: serve
serve: $(READY) ## Run Triton, the gateway and its page until Ctrl-C: make serve [REPOSITORY=DIR] [OPTIONS="--http-port 8888 ..."]
	$(if $(filter build/repository,$(REPOSITORY)),$(PY) -m export.base --out $(REPOSITORY) --if-missing)
	$(PY) -m serving.serve --repository $(REPOSITORY) --classes build/classes $(OPTIONS)

.PHONY: bench
bench: $(READY) ## Measure calibration, the cost of a training step and fusion: make bench [BBBC038=PATH]
	$(PY) -m benchmarks.cost
	$(PY) -m benchmarks.fusion
	$(PY) -m benchmarks.calibration $(if $(BBBC038),--bbbc038 $(BBBC038))

.PHONY: bench-gpu
bench-gpu: $(READY) ## Measure accuracy, speed, memory and training on a GPU, in 9 minutes: make bench-gpu [BBBC038=PATH]
	$(PY) -m benchmarks.gpu --out out/gpu/$(STARTED) $(if $(BBBC038),--bbbc038 $(BBBC038))

.PHONY: bench-peers
bench-peers: $(READY) ## Measure the service beside SamPredictor, LitServe, ONNX Runtime and Triton alone: make bench-peers [QUICK=1]
	$(PY) -m benchmarks.peers $(if $(QUICK),--quick)

.PHONY: capacity
capacity: $(READY) ## Compare the capacity simulation with the service, in 7 minutes of an idle machine
	$(PY) -m benchmarks.capacity validate

.PHONY: chaos
chaos: $(READY) ## Kill the service's processes, attack it on loopback, write benchmarks/reports/chaos.md: make chaos [QUICK=1]
	$(PY) -m benchmarks.chaos $(if $(QUICK),--quick,--report)

.PHONY: compare
compare: $(READY) ## Compare all methods without clicks: make compare [BBBC038=PATH] [SET="key=value ..."]
	$(PY) -m benchmarks.comparison benchmarks/recipes/comparison.yaml $(SET) $(if $(BBBC038),--data bbbc038v1=$(BBBC038))

UNSTAINED := runs/fluorescence
FLUORESCENCE = data.bbbc038=$(BBBC038) data.train_ids=$(CURDIR)/$(UNSTAINED)/train-fluorescence.txt \
  data.val_ids=$(CURDIR)/$(UNSTAINED)/val-fluorescence.txt

.PHONY: ood
ood: $(READY) ## Pretrain and train on fluorescence alone, test on tissue: make ood BBBC038=PATH [SET=...]
	$(PY) -m benchmarks.stains $(or $(BBBC038),$(error give the data: make ood BBBC038=PATH)) --ids train.txt --out $(UNSTAINED)/train
	$(PY) -m benchmarks.stains $(BBBC038) --ids val.txt --out $(UNSTAINED)/val
	$(PY) -m training.pretrain training/configs/pretrain.yaml $(FLUORESCENCE) out=$(UNSTAINED)/base run=$(UNSTAINED)/pretrain
	$(PY) -m training.pretrain training/configs/pretrain_refine.yaml $(FLUORESCENCE) init=$(UNSTAINED)/base out=$(UNSTAINED)/vit_t run=$(UNSTAINED)/refine
	$(PY) -m benchmarks.comparison benchmarks/recipes/out_of_distribution.yaml $(SET) --data bbbc038v1=$(BBBC038)

.PHONY: proto
proto: $(READY) ## Generate the gRPC modules from cpcsam/v1/*.proto
	$(PY) -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. cpcsam/v1/*.proto
	$(PY) -m grpc_tools.protoc --proto_path=. --grpc_python_out=. cpcsam/v1/segmentation.proto

UPGRADE ?= --upgrade
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(PY) -m piptools compile --quiet --generate-hashes \
  --allow-unsafe --strip-extras --no-emit-options --no-emit-index-url --no-emit-find-links \
  --no-emit-trusted-host

# One lock serves Python 3.11 and 3.12: its pins have the hashes of all wheels, and the last command
# fails if 3.12 needs a package that 3.11 does not.
.PHONY: lock
lock: $(READY) ## Pin the newest admitted releases in the *.lock files; UPGRADE= keeps the pins
	$(COMPILE) $(UPGRADE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra serve --extra tracing --constraint requirements.lock --output-file deploy/gateway.lock pyproject.toml
	$(COMPILE) --extra triton --constraint requirements.lock --output-file deploy/triton.lock pyproject.toml
	sed -n '/^triton = /,/^]/{s/onnxruntime-gpu/onnxruntime/;s/^ *"\(.*\)",$$/\1/p}' pyproject.toml | \
	  $(COMPILE) --constraint requirements.lock --output-file deploy/triton-cpu.lock -
	$(PY) -m tools.lock_no_deps requirements-no-deps.in requirements-no-deps.lock
	$(PY) -m pip install --quiet --dry-run --require-hashes --only-binary=:all: --python-version 3.12 \
	  --target $(VENV)/.python3.12 --requirement requirements.lock

.PHONY: clean
clean: ## Remove what the targets made: build/, out/, runs/ and caches (never weights/)
	rm -rf build out runs *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# An interrupted installation starts afresh (what was downloaded is kept); a changed pyproject.toml
# only reinstalls the project itself.
$(VENV)/.locked: requirements.lock requirements-no-deps.lock
	@command -v python3 >/dev/null || { echo >&2 \
	  "preflight: python3: not found; apt-get install python3.11 python3.11-venv libpython3.11"; exit 2; }
	python3 -m tools.preflight --python $(PYTHON) --venv $(VENV)
	@echo "installing 6.8 GB into $(VENV); this takes some minutes"
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m tools.install_locked requirements.lock
	$(PY) -m tools.install_locked --no-deps requirements-no-deps.lock
	touch $@

$(READY): $(VENV)/.locked pyproject.toml
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
