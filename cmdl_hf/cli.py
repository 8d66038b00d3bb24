"""The `cmdl` command line."""
