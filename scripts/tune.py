"""Choose the fastest form of every rewritten layer; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))
