"""Settings of the documentation site. `make docs` builds it; a warning is an error."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402

from cmdl_hf import __version__  # noqa: E402

project = "cmdl_hf"
author = "The cmdl_hf authors"
release = version = __version__
extensions = ["myst_parser"]
exclude_patterns: list[str] = []
nitpicky = True
smartquotes = False  # it would turn the two hyphens of a flag into a dash

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "dollarmath"]

html_theme = "pydata_sphinx_theme"
html_title = "cmdl_hf"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_center": [],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["site-nav.html"]}
templates_path = ["_templates"]
project_copyright = "the cmdl_hf authors, Apache-2.0"


def fill_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace the marks of a page: what the code itself says, and the files beside `docs`."""
    source[0] = pages.fill(source[0], name)


def setup(app: Sphinx) -> None:
    """Let every page pass through `fill_page` before it is read."""
    pages.check_rooms()
    app.connect("source-read", fill_page)
