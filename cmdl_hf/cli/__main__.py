"""What launchers start: `torchrun -m cmdl_hf.cli evaluate ...` is `cmdl evaluate ...` in several processes."""

from . import main

main()
