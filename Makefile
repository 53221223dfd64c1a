PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format clean

demo: .venv/installed
	$(BIN)/python experiments/vgg16_decoupled/run.py --output runs/demo

test: .venv/models
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python experiments/vgg16_decoupled/table.py --check
	$(BIN)/python experiments/budget/table.py --check
	$(BIN)/python experiments/speed/table.py --check
	$(BIN)/python experiments/bmvc2018/table.py --check
	$(BIN)/python experiments/finetune/table.py --check
	$(BIN)/python experiments/zoo/table.py --check
	$(BIN)/python experiments/questions/why/table.py --check
	$(BIN)/python experiments/questions/cost/table.py --check
	$(BIN)/python experiments/questions/only_images/table.py --check

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
	rm -rf .venv runs build *.egg-info
