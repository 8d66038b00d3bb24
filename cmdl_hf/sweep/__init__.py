"""Sweeps: every combination of settings and seeds as a run of its own."""

from .planning import PlannedRun, check_finished, plan
from .settings import combine, parse_seeds, parse_settings
from .sweeping import Outcome, sweep

__all__ = ["Outcome", "PlannedRun", "check_finished", "combine", "parse_seeds", "parse_settings", "plan", "sweep"]
