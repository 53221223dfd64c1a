"""Win the accuracy of a rewritten network back; also under accelerate launch or torchrun; ``--help`` tells how."""

import sys

from decompose.cli import main

sys.exit(main(["finetune", *sys.argv[1:]]))
