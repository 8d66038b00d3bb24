"""What launchers start: `accelerate launch -m cmdl_hf.training RECIPE` is `cmdl train RECIPE` in several processes."""

import sys

from ..cli import main

main(["train", *sys.argv[1:]])
