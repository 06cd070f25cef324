# SPDX-License-Identifier: GPL-2.0-only
"""Pictures: pure functions of a trace, an array or a machine."""

from mmref.view.ladder import headline, ladder

__all__ = ["headline", "ladder"]
