"""Compress a model to many budgets; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["sweep", *sys.argv[1:]]))
