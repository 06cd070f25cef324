# SPDX-License-Identifier: GPL-2.0-only
"""This machine's own kernel: what real files look like."""

from mmref.live.layout import data_extents, layout_like, sparse_file

__all__ = ["data_extents", "layout_like", "sparse_file"]
