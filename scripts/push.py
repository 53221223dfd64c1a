"""Publish a model on the Hugging Face hub, with a model card; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["push", *sys.argv[1:]]))
