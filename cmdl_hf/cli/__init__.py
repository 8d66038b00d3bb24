"""The `cmdl` command line. Each command imports its dependencies only when it runs."""

from .app import app, main

__all__ = ["app", "main"]
