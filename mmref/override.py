# SPDX-License-Identifier: GPL-2.0-only
"""`@override`, for who is in a hurry: the import of typing_extensions takes as long as a small exploration."""

TYPE_CHECKING = False  # what type checkers take for true, without the import of typing
if TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method):
        """Say that a method overrides one of a base class; only type checkers look at it."""
        return method


__all__ = ["override"]
