# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of collapse_file()'s history, each as the smallest override that brings it back."""

from mmref.khugepaged.museum.frozen_in_cache import FrozenInCache
from mmref.khugepaged.museum.uptodate_after_insert import UptodateAfterInsert
from mmref.khugepaged.strategy import CollapseStrategy

__all__ = ["MUSEUM", "FrozenInCache", "UptodateAfterInsert"]

MUSEUM: dict[str, type[CollapseStrategy]] = {exhibit.name: exhibit for exhibit in (UptodateAfterInsert, FrozenInCache)}
"""The exhibits by name."""
