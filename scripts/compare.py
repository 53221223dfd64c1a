"""Compare a model with the smaller one made from it; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["compare", *sys.argv[1:]]))
