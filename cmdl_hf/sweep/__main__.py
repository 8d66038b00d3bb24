"""Entry point of the runs of a sweep: `python -m cmdl_hf.sweep train ...` is `cmdl train ...` that ends with it."""

from ..cli import main
from .watching import stop_with_sweep

stop_with_sweep()
main()
