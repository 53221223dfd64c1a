"""Show a model's layers: plan, MACs, parameters and spectrum; see ``--help``.

It is not called inspect.py, which would hide Python's own module of that name.
"""

import sys

from decompose.cli import main

sys.exit(main(["inspect", *sys.argv[1:]]))
