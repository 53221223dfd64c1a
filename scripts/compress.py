"""Rewrite a network's convolutions as smaller ones and save it; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["compress", *sys.argv[1:]]))
