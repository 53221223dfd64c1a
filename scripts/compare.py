"""Set a network beside the smaller one made from it; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["compare", *sys.argv[1:]]))
