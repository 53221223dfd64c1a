"""Time models in turns, against the first; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
