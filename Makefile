# Every task of the project. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint format docs system bench bench-compress flower nvflare substra kill-drill-federate models figures fuzz fuzz-feeds bench-decide conformance webgpu bedside ward policy-contexts clean

help:
	@echo "make demo     set up, train, compress, sign, install, replay, measure (10 minutes on two cores)"
	@echo "make test     lint, types, import contracts and every test"
	@echo "make lint     ruff, mypy, import-linter, generated docs"
	@echo "make format   let ruff rewrite the sources"
	@echo "make docs     regenerate the reference of the command line"
	@echo "make system   install the Debian packages that all the tests need (as root)"
	@echo "make fuzz     fuzz the engine's parsers, FUZZ_SECONDS=60 each of FUZZ_TARGETS (all), and print what was reached"
	@echo "make fuzz-feeds  fuzz MQTT, HL7 and FHIR messages, FUZZ_SECONDS=60 each, and print what was reached"
	@echo "make conformance  the same prompts and decisions on every runtime here (15 minutes; with SMALLHOLD_DATA)"
	@echo "make webgpu   install ONNX Runtime Web for bundle page --webgpu and its tests (needs npm; 150 MB)"
	@echo "make bench    measure the session against its peers on this machine"
	@echo "make bench-compress  our quantizers beside peers on runs/hospital (needs SMALLHOLD_DATA; peers get environments)"
	@echo "make flower   an environment with Flower, for smallhold federate run --engine flower"
	@echo "make nvflare  an environment with NVFlare, for smallhold federate run --engine nvflare"
	@echo "make substra  an environment with Substra, for smallhold federate run --engine substra"
	@echo "make kill-drill-federate  kill processes of a federation twenty times, ENGINE=flower (needs SMALLHOLD_DATA; half an hour)"
	@echo "make bench-federate  engines, bytes, hiding and noise of a federation (needs SMALLHOLD_DATA; ten minutes)"
	@echo "make bench-federate-worth  federated, local, pooled, and private at epsilon 1, 4, 8 (needs SMALLHOLD_DATA; an hour)"
	@echo "make bench-decide  the engine beside llama.cpp, genai and transformers, equal decisions (20 minutes; peers get built)"
	@echo "make bedside  thirty patients live in the terminal, over MQTT, floor and model beside each (SPEED=60; Ctrl-C ends)"
	@echo "make ward     the same with a page for staff in the browser: accounts and passwords are shown once (SPEED=60)"
	@echo "make policy-contexts  ten million situations through every policy profile, judged by two more engines (10 minutes)"
	@echo "make drill    kill, fill, cut, corrupt: what goes wrong on a ward, and what came of it (2 minutes)"
	@echo "make bench-bedside  thirty beds for ten minutes beside a process that takes all it gets (12 minutes)"
	@echo "make models   train the base and the sectors' models, sign with a new key (needs SMALLHOLD_DATA; hours)"
	@echo "make figures  measure the tables of the shipped models again (needs SMALLHOLD_DATA; an hour on two cores)"
	@echo "make clean    remove the environment and the caches; runs/ stays"

demo: .venv/demo.stamp
	$(BIN)/smallhold demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m smallhold.cli.reference --check docs/reference/cli.md

format: .venv/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/test.stamp
	$(BIN)/python -m smallhold.cli.reference docs/reference/cli.md

system:
	apt-get update
	xargs -a system-packages.txt apt-get install -y --no-install-recommends

# Corpora stay in engine/target/fuzz and are gone on with: ten minutes a target are ten runs of a minute.
FUZZ_SECONDS ?= 60
fuzz: .venv/demo.stamp
	PYTHON=$(abspath $(BIN)/python) engine/fuzz/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

fuzz-feeds: .venv/test.stamp
	$(BIN)/python -m bench.fuzz_feeds --seconds $(FUZZ_SECONDS)

conformance: .venv/test.stamp runs/peers/onnxruntime-web/stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance

# Where npm is missing or fails, what needs it is untested, and says so.
runs/peers/onnxruntime-web/stamp:
	mkdir -p $(@D)
	-npm install --prefix $(@D) --ignore-scripts --no-audit --no-fund onnxruntime-web@1.30.0 && touch $@

webgpu:
	npm ci --ignore-scripts --no-audit --no-fund --prefix browser/webgpu

bench: .venv/test.stamp
	$(BIN)/python bench/session.py

# The peers' packages conflict with ours and with each other: two environments of their own.
bench-compress: .venv/test.stamp .venv-peers/stamp .venv-llmc/stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.compress

# A peer that cannot be built or installed is named in the result; the others are measured all the same.
bench-decide: .venv/test.stamp
	cargo build --release --manifest-path engine/Cargo.toml
	-bench/decide/build_llama.sh
	-$(MAKE) .venv-peers/stamp
	$(BIN)/python -m bench.decide $(BENCH_FLAGS)

policy-contexts: .venv/test.stamp
	$(BIN)/python -m bench.policy_contexts

.venv-peers/stamp: PEERS := onnxruntime-genai==0.18.0 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0 torchao==0.18.0 transformers==5.23.0
.venv-llmc/stamp: PEERS := llmcompressor==0.14.0.1
.venv-peers/stamp .venv-llmc/stamp:
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	./install-torch.sh $(@D)/bin/python
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet $(PEERS)
	@touch $@

# Each step continues what an interrupted call left. The private key stays in runs/publisher, which git ignores.
models: .venv/demo.stamp
	$(BIN)/smallhold teach pretrain base --out runs/base
	$(BIN)/smallhold teach pretrain base-languages --from runs/base/checkpoint --out runs/base-languages
	mkdir -p models/base models/trusted_keys
	cp runs/base-languages/checkpoint/* runs/base-languages/run.json models/base/
	$(BIN)/smallhold device --home runs/publisher init
	for sector in hospital finance; do \
	  $(BIN)/smallhold teach train $$sector --out runs/$$sector && \
	  $(BIN)/smallhold compress runs/$$sector && \
	  $(BIN)/smallhold bundle build runs/$$sector --out models/$$sector --home runs/publisher || exit 1; \
	done
	cp runs/publisher/trust/*.pem models/trusted_keys/

# An hour of the ward passes in a minute. Real patients with SMALLHOLD_DATA, simulated ones without.
SPEED ?= 60
bedside: .venv/demo.stamp
	mkdir -p runs/bedside
	test -e runs/bedside/keys || $(BIN)/smallhold device --home runs/bedside init
	$(BIN)/smallhold bedside models/hospital --trusted-keys models/trusted_keys --home runs/bedside --rehearse mqtt --speed $(SPEED) $(BEDSIDE_FLAGS)

# What goes wrong on a ward, made to go wrong; every drill is a test as well.
.PHONY: drill bench-bedside
drill: .venv/test.stamp
	SMALLHOLD_REQUIRE_ALL=1 SMALLHOLD_DRILL_RESULT=$(abspath runs/drill/result.json) $(BIN)/python -m pytest -q \
	  tests/drills tests/assist/test_live.py tests/assist/sync/test_offline.py tests/assist/orders/test_stop.py tests/assist/test_alarm_log.py

bench-bedside: .venv/test.stamp
	$(BIN)/python bench/bedside.py $(BENCH_FLAGS)

# A page for staff on loopback, with accounts for this run alone.
ward: .venv/demo.stamp
	mkdir -p runs/ward
	test -e runs/ward/keys || $(BIN)/smallhold device --home runs/ward init
	$(BIN)/smallhold console --home runs/ward run models/hospital --trusted-keys models/trusted_keys --rehearse mqtt --demo-accounts --speed $(SPEED) $(WARD_FLAGS)

# Their pins are strict, so that each gets an environment of its own; torch is not in it.
flower: .venv-flower/stamp
nvflare: .venv-nvflare/stamp
.venv-flower/stamp: PINNED := flwr==1.41.0
.venv-nvflare/stamp: PINNED := nvflare==2.9.0
.venv-flower/stamp .venv-nvflare/stamp: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet $(PINNED) numpy safetensors cryptography
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

# Substra is no longer maintained: its versions are exact, and it gets an environment of its own; torch is not in it.
substra: .venv-substra/stamp
.venv-substra/stamp: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet substra==1.0.0 substratools==1.0.0 'pydantic<2.15' numpy safetensors
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $@

# Flower with torch beside it, for the same job written the usual way.
.venv-flower-usual/stamp: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	./install-torch.sh $(@D)/bin/python
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet flwr==1.41.0
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet -e '.[train]'
	@touch $@

# In a network of its own: what passes through loopback is the engines', and nothing can leave.
.PHONY: bench-federate
bench-federate: .venv/test.stamp .venv-flower/stamp .venv-nvflare/stamp .venv-substra/stamp .venv-flower-usual/stamp
	OMP_NUM_THREADS=1 unshare --map-root-user --net sh -c 'ip link set lo up && exec $(BIN)/python -m bench.federate'

.PHONY: bench-federate-worth
bench-federate-worth: .venv/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.federate_worth $(BENCH_FLAGS)

ENGINE ?= flower
kill-drill-federate: .venv/test.stamp
	$(MAKE) $(ENGINE)
	$(BIN)/python -m bench.kill_drill_federate --engine $(ENGINE)

figures: .venv/test.stamp
	$(BIN)/python bench/figures.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# A stamp is newer than pyproject.toml once its extra is installed, so that later calls need no network.
.venv/demo.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	./install-torch.sh $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[demo]'
	@touch $@

.venv/test.stamp: .venv/demo.stamp pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[test]'
	@touch $@
