"""Rewrite a model's convolutions as smaller ones and save it; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["compress", *sys.argv[1:]]))
