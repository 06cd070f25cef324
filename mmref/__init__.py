# SPDX-License-Identifier: GPL-2.0-only
"""An executable reference for how Linux turns many page-cache pages into one huge page."""

__version__ = "0.1.0"
