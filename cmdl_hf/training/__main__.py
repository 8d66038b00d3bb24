"""Entry point of launchers: `accelerate launch -m cmdl_hf.training RECIPE` runs `cmdl train` in several processes."""

import sys

from ..cli import main

main(["train", *sys.argv[1:]])
