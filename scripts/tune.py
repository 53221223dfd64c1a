"""Let every rewritten layer of a network run in its fastest form; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))
