"""Sweeps: every combination of settings and seeds as a run of its own."""

from .planning import PlannedRun, check_data, plan
from .settings import combine, parse_seeds, parse_settings
from .sweeping import Outcome, sweep

__all__ = ["Outcome", "PlannedRun", "check_data", "combine", "parse_seeds", "parse_settings", "plan", "sweep"]
