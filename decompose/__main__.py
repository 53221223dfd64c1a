"""``python -m decompose``: the command, where the environment's scripts are not on the path."""

import sys

from decompose.cli import main

sys.exit(main())
