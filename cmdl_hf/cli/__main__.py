"""Entry point for launchers: `torchrun -m cmdl_hf.cli evaluate ...` runs `cmdl evaluate ...` in several processes."""

from . import main

main()
