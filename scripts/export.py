"""Write a network as ONNX, checked against torch; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["export", *sys.argv[1:]]))
