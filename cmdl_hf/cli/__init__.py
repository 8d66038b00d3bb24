"""The `cmdl` command line: thin commands that import what they need when they run."""

from .app import app, main

__all__ = ["app", "main"]
