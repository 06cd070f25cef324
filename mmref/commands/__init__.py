# SPDX-License-Identifier: GPL-2.0-only
"""What each command of `mmref` does; `mmref/cli.py` has their options."""
