"""Win a rewritten model's accuracy back, also under accelerate launch; see ``--help``."""

import sys

from decompose.cli import main

sys.exit(main(["finetune", *sys.argv[1:]]))
