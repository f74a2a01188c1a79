# `make` prints help. Every target is one Python command that can be pasted instead.

# The names that stand on the command line.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))

# What says which table of the user's own is read: only on the command line, as other programs mean other things by such
# names in the environment.
OWN := DATA TEXT LABEL POSITIVE TEST QUESTION

# What the user may set. Values are taken as typed ($ and backticks included) and reach the recipes through
# the environment, always quoted: nothing in them is ever read by make or by a shell.
VARIABLES := MODEL GGUF ADAPTER TASK DATA_DIR $(OWN) OUT_TASK OUT_FILE LIMIT BATCH DEVICE DTYPE QUANT BACKEND BASE_URL ENGINE THINK_BUDGET PROCS \
  SAMPLES SHOTS CALIBRATE ROWS RECIPE REPORT_TO OUT PRICES SEED FORCE ARGS A B RUN ONLY REAL_MODELS EXTRAS INDEX PYTHON
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
$(foreach name,$(filter-out $(GIVEN),$(OWN)),$(eval override $(name) :=))
export $(VARIABLES)

# Recipes `exec` the program, so that it, and not a shell around it, gets the signal that make hands on.
HARNESS := .venv/bin/python -m harness_ext
READY := .venv/ready

# What each target reads, beside what .venv is made with. A variable on the command line that none of the targets reads
# would have no effect, so it is refused; of the environment's, which other programs may mean, nothing is said.
RUN_READS := MODEL GGUF ADAPTER TASK DATA_DIR $(OWN) LIMIT BATCH DEVICE DTYPE QUANT BACKEND BASE_URL ENGINE THINK_BUDGET PROCS SAMPLES \
  SHOTS CALIBRATE ROWS OUT SEED FORCE ARGS
eval.reads := $(RUN_READS)
doctor.reads := $(RUN_READS)
predict.reads := MODEL GGUF ADAPTER TASK DATA TEXT QUESTION LIMIT BATCH DEVICE DTYPE QUANT BACKEND BASE_URL ENGINE THINK_BUDGET PROCS SEED \
  OUT_FILE FORCE ARGS
finetune.reads := MODEL GGUF TASK DATA_DIR $(OWN) DEVICE DTYPE SAMPLES ROWS RECIPE REPORT_TO OUT SEED FORCE ARGS
curves.reads := OUT ARGS
leaderboard.reads := OUT PRICES ARGS
report.reads := OUT DATA_DIR PRICES ARGS
compare.reads := A B DATA_DIR OUT ARGS
show.reads := RUN ONLY DATA_DIR LIMIT OUT ARGS
validate.reads := TASK DATA_DIR $(OWN) ARGS
task.reads := TASK $(OWN) OUT_TASK FORCE ARGS
models.reads := ARGS
tiny.reads := DATA_DIR
setup.reads := EXTRAS
test.reads := ARGS
test-slow.reads := ARGS
test-real.reads := ARGS REAL_MODELS
test-gpu.reads := ARGS
bench.reads := ARGS
bench-gpu.reads := DATA_DIR
READS := $(foreach goal,$(MAKECMDGOALS),$($(goal).reads))
UNREAD := $(filter-out $(READS) PYTHON INDEX SHELL MAKEFLAGS,$(GIVEN))
ifneq ($(UNREAD),)
READY := refuse
export MAKECMDGOALS READS UNREAD
endif

.DEFAULT_GOAL := help
.PHONY: help setup eval models doctor finetune curves leaderboard report compare show validate task predict tiny test test-slow test-real test-gpu bench bench-gpu lint

help:  ## Print this help
	@echo 'Usage: make TARGET [VARIABLE=value ...]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile
	@echo 'Variables: MODEL GGUF ADAPTER TASK DATA_DIR DATA TEXT LABEL POSITIVE TEST QUESTION OUT_TASK OUT_FILE LIMIT BATCH DEVICE DTYPE QUANT BACKEND BASE_URL ENGINE THINK_BUDGET PROCS SAMPLES SHOTS CALIBRATE ROWS RECIPE REPORT_TO OUT PRICES SEED FORCE ARGS A B RUN ONLY (see docs/reference.md)'

setup: $(READY)  ## Create .venv from the pinned versions (EXTRAS=name,name INDEX=url for torch PYTHON=python3.12)
	@if [ -n "$$EXTRAS" ]; then .venv/bin/pip install -q -c constraints.txt -e ".[dev,$$EXTRAS]"; fi
	@# gptqmodel asks for a newer torch than is pinned and does not need it; the extra names the rest of what it imports.
	@case ",$$EXTRAS," in *,awq,*) .venv/bin/pip install -q -c constraints.txt --no-deps gptqmodel ;; esac

.PHONY: refuse
refuse:
	@exec "$${PYTHON:-python3}" -m harness_ext.variables

.venv/ready: pyproject.toml constraints.txt
	@"$${PYTHON:-python3}" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make setup PYTHON=python3.12")'
	"$${PYTHON:-python3}" -m venv .venv
	.venv/bin/pip install -q -c constraints.txt $${INDEX:+--index-url "$$INDEX"} torch
	.venv/bin/pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

OWN_FLAGS := $${DATA:+"--data=$$DATA"} $${TEXT:+"--text=$$TEXT"} $${LABEL:+"--label=$$LABEL"} \
  $${POSITIVE:+"--positive=$$POSITIVE"} $${TEST:+"--test=$$TEST"} $${QUESTION:+"--question=$$QUESTION"}

# eval and doctor take the same: what a run is asked can be examined first.
RUN_FLAGS := $${MODEL:+"--pretrained=$$MODEL"} $${GGUF:+"--gguf=$$GGUF"} $${ADAPTER:+"--adapter=$$ADAPTER"} $${TASK:+"--tasks=$$TASK"} \
  $${DATA_DIR:+"--data_dir=$$DATA_DIR"} $${LIMIT:+"--limit=$$LIMIT"} $${BATCH:+"--batch_size=$$BATCH"} \
  $${DEVICE:+"--device=$$DEVICE"} $${DTYPE:+"--dtype=$$DTYPE"} $${BACKEND:+"--model=$$BACKEND"} $${SEED:+"--seeds=$$SEED"} \
  $${ENGINE:+"--engine=$$ENGINE"} $${THINK_BUDGET:+"--think_budget=$$THINK_BUDGET"} \
  $${BASE_URL:+"--base_url=$$BASE_URL"} $${QUANT:+"--quantise=$$QUANT"} $${SAMPLES:+"--train_samples=$$SAMPLES"} \
  $${SHOTS:+"--shots=$$SHOTS"} $${CALIBRATE:+"--calibrate=$$CALIBRATE"} $${ROWS:+"--rows=$$ROWS"} \
  $${PROCS:+"--procs=$$PROCS"} $(OWN_FLAGS) \
  $${OUT:+"--output_path=$$OUT"} $${FORCE:+"--force"} $${ARGS:+"--args=$$ARGS"}

eval: $(READY)  ## Score a model: make eval [MODEL=Hub id or folder] [ADAPTER=folder] [TASK=sst2_01] [DATA_DIR=folder | DATA=table.csv QUESTION='...']
	@exec $(HARNESS) run $(RUN_FLAGS)

models: $(READY)  ## List the models of the original experiment: size, memory, reported score
	@exec $(HARNESS) models $${ARGS:+"--args=$$ARGS"}

doctor: $(READY)  ## Say what would stop a run, before it starts: make doctor MODEL=... [the variables of eval]
	@exec $(HARNESS) doctor $(RUN_FLAGS)

finetune: $(READY)  ## Make an adapter: make finetune SAMPLES=64 [MODEL=...] [RECIPE=...] [SEED=0,1] [DATA_DIR=folder | DATA=table.csv]
	@exec .venv/bin/python -m finetune $${SAMPLES:+"--samples=$$SAMPLES"} $${SEED:+"--seed=$$SEED"} $${MODEL:+"--model=$$MODEL"} \
	  $${GGUF:+"--gguf=$$GGUF"} $${RECIPE:+"--recipe=$$RECIPE"} $${TASK:+"--task=$$TASK"} $${DATA_DIR:+"--data_dir=$$DATA_DIR"} \
	  $(OWN_FLAGS) $${ROWS:+"--rows=$$ROWS"} $${DEVICE:+"--device=$$DEVICE"} $${DTYPE:+"--dtype=$$DTYPE"} $${REPORT_TO:+"--report_to=$$REPORT_TO"} \
	  $${OUT:+"--output_path=$$OUT"} $${FORCE:+"--force"} $${ARGS:+"--args=$$ARGS"}

curves: $(READY)  ## Draw the loss curves of all adapters in one figure: results/curves.png and .svg [OUT=results]
	@exec .venv/bin/python -m finetune curves $${OUT:+"--output_path=$$OUT"} $${ARGS:+"--args=$$ARGS"}

leaderboard: $(READY)  ## Write results/leaderboard.md, .csv and .json from all runs [OUT=results PRICES=prices.yaml]
	@exec $(HARNESS) leaderboard $${OUT:+"--output_path=$$OUT"} $${PRICES:+"--prices=$$PRICES"} $${ARGS:+"--args=$$ARGS"}

report: $(READY)  ## Write results/report.html, one page of all runs [OUT=results] [DATA_DIR=folder: shows sentences] [PRICES=prices.yaml]
	@exec $(HARNESS) report $${OUT:+"--output_path=$$OUT"} $${DATA_DIR:+"--data_dir=$$DATA_DIR"} $${PRICES:+"--prices=$$PRICES"} \
	  $${ARGS:+"--args=$$ARGS"}

compare: $(READY)  ## Compare two runs, experiments or logs: make compare [A=... B=...] [DATA_DIR=folder with dev.tsv] [OUT=results]
	@exec $(HARNESS) compare $${A:+"--a=$$A"} $${B:+"--b=$$B"} $${DATA_DIR:+"--data_dir=$$DATA_DIR"} \
	  $${OUT:+"--output_path=$$OUT"} $${ARGS:+"--args=$$ARGS"}

show: $(READY)  ## Print what a run said of its documents: make show RUN=... [ONLY=not_following|wrong|right|near_ties] [LIMIT=20]
	@exec $(HARNESS) show $${RUN:+"--run=$$RUN"} $${ONLY:+"--only=$$ONLY"} $${LIMIT:+"--limit=$$LIMIT"} \
	  $${DATA_DIR:+"--data_dir=$$DATA_DIR"} $${OUT:+"--output_path=$$OUT"} $${ARGS:+"--args=$$ARGS"}

validate: $(READY)  ## Build tasks and render one prompt each: make validate [TASK=sst2_01_mini] [DATA_DIR=folder]
	@exec $(HARNESS) validate "--tasks=$$TASK" $${DATA_DIR:+"--data_dir=$$DATA_DIR"} $(OWN_FLAGS) $${ARGS:+"--args=$$ARGS"}

task: $(READY)  ## Write a task on your own table as YAML: make task DATA=table.csv QUESTION='...' OUT_TASK=my_tasks/name.yaml
	@exec $(HARNESS) task $${TASK:+"--tasks=$$TASK"} $(OWN_FLAGS) "--out_task=$$OUT_TASK" $${FORCE:+"--force"} $${ARGS:+"--args=$$ARGS"}

predict: $(READY)  ## Answer texts without labels: make predict MODEL=...|ADAPTER=... DATA=new.csv [QUESTION='...'] [OUT_FILE=answers.csv]
	@unset DATA_DIR SAMPLES SHOTS CALIBRATE ROWS OUT; \
	exec $(HARNESS) predict $(RUN_FLAGS) $${OUT_FILE:+"--out_file=$$OUT_FILE"}

tiny: $(READY)  ## Train the shipped models anew: make tiny DATA_DIR=folder (5 minutes on two cores)
	exec .venv/bin/python models/make_tiny.py "--data_dir=$${DATA_DIR:?is the folder with train.tsv: make tiny DATA_DIR=../sst2}"

test: $(READY)  ## Run the tests (no network, no GPU)
	@exec env PYTEST_ADDOPTS="$$ARGS" .venv/bin/python -m pytest -n 2 --dist worksteal

test-slow: $(READY)  ## Run the tests that take minutes
	@exec env PYTEST_ADDOPTS="$$ARGS" .venv/bin/python -m pytest -m slow -n 2 --dist worksteal

test-real: $(READY)  ## Run the tests on pretrained models: make test-real REAL_MODELS=folder
	@exec env PYTEST_ADDOPTS="$$ARGS" .venv/bin/python -m pytest -m real

test-gpu: $(READY)  ## Run the tests that need a CUDA device (6 minutes); figures go to results/gpu.json
	@exec env PYTEST_ADDOPTS="$$ARGS" .venv/bin/python -m pytest -m gpu tests/gpu

bench: $(READY)  ## Measure speed (pytest-benchmark, half an hour); figures go to results/bench.json and results/bench.md
	@exec env PYTEST_ADDOPTS="$$ARGS" .venv/bin/python -m pytest tests/benchmarks --benchmark-only --benchmark-json=results/bench.json -m ''
	@exec .venv/bin/python tests/benchmarks/table.py results/bench.json results/bench.md

bench-gpu: $(READY)  ## Measure speed on one CUDA GPU beside stock lm-eval and vLLM (6 minutes); figures go to results/bench-gpu.json
	@exec env PYTHONPATH=tests/benchmarks .venv/bin/python tests/benchmarks/bench_gpu.py

lint: $(READY)  ## ruff, mypy, and who may import whom
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
