"""Publish a network on the Hugging Face hub, with a model card; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["push", *sys.argv[1:]]))
