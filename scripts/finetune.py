"""Win a rewritten network's accuracy back, also under accelerate launch; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["finetune", *sys.argv[1:]]))
