"""Time networks in turns, against the first; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
