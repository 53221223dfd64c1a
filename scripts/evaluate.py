"""Measure top-1 and top-5 accuracy over a folder of class folders; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
