"""Export a model to ONNX, checked against torch; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["export", *sys.argv[1:]]))
