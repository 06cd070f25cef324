# SPDX-License-Identifier: GPL-2.0-only
"""What folios and entries are called in a trace."""

from __future__ import annotations

from mmref.folio import Folio
from mmref.pagecache import AddressSpace
from mmref.xarray import RETRY, XaNode, is_sibling

__all__ = ["entry_text", "folio_text", "value_text"]


def folio_text(folio: Folio) -> str:
    """Name a folio in a trace: a small one by its page frame, the huge one as the kernel's code does."""
    return f"folio {folio.pfn}" if folio.order == 0 else "new_folio"


def entry_text(entry: object) -> str:
    """Name an entry of the tree in a trace."""
    if entry is None:
        return "NULL"
    if entry is RETRY:
        return "RETRY"
    if isinstance(entry, Folio):
        return folio_text(entry)
    if type(entry) is XaNode:
        return "node"
    if is_sibling(entry):
        return "sibling"
    return str(entry)


def value_text(value: object) -> object:
    """Name what a field holds in a trace: a number as it is, anything else in a word."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return value
    return "mapping" if isinstance(value, AddressSpace) else "set"
