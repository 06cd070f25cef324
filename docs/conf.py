# SPDX-License-Identifier: GPL-2.0-only
"""Sphinx: Markdown pages (MyST) in the furo theme. `make docs` builds them into docs/_build/html."""

from mmref import __version__

project = "mmref"
author = "the mmref developers"
copyright = "the mmref developers, GPL-2.0-only"
release = version = __version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"mmref {__version__}"
myst_heading_anchors = 3
