PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test endurance check format clean wheel docs notebooks

demo: .venv/installed
	$(BIN)/python -m experiments.vgg16_decoupled.run --output runs/demo

# Two processes of one thread each: most tests are too small for a second thread.
test: .venv/models
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Damaged files of every kind and killed commands; exits with 1 where anything is lost.
endurance: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.endurance.run --mutants 2000 --kills 200 --jobs 2 --output runs/endurance
	$(BIN)/python -m pytest -m endurance tests

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m experiments.vgg16_decoupled.table --check
	$(BIN)/python -m experiments.budget.table --check
	$(BIN)/python -m experiments.speed.table --check
	$(BIN)/python -m experiments.compression_time.table --check
	$(BIN)/python -m experiments.bmvc2018.table --check
	$(BIN)/python -m experiments.finetune.table --check
	$(BIN)/python -m experiments.zoo.table --check
	$(BIN)/python -m experiments.gpu.table --check
	$(BIN)/python -m experiments.int8.table --check
	$(BIN)/python -m experiments.cifar10.table --check
	$(BIN)/python -m experiments.imagenet.table --check
	$(BIN)/python -m experiments.endurance.table --check
	$(BIN)/python -m experiments.questions.why.table --check
	$(BIN)/python -m experiments.questions.cost.table --check
	$(BIN)/python -m experiments.questions.only_images.table --check

# The pages, strict: a broken link is an error; and the examples on them.
docs: .venv/installed
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python -m pytest -m docs tests/project/test_readme.py

notebooks: .venv/installed
	$(BIN)/python -m pytest -m notebooks tests/project/test_notebooks.py

# Built, checked, and used from a fresh environment outside the checkout.
wheel: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_wheel.py dist

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp is written last, so an interrupted install is taken up again.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "decompose needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade --editable '.[demo,dev]'
	touch $@

# ONNX models that others exported, for the tests; what their packages run on is not needed.
.venv/models: .venv/installed
	$(BIN)/python -m pip install --no-deps rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3
	touch $@

clean:
	rm -rf .venv runs build dist *.egg-info
