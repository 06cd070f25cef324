# SPDX-License-Identifier: GPL-2.0-only
"""The system calls that Python has no function for, through ctypes; errors come as OSError."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

__all__ = [
    "MADVICE",
    "MAP_FIXED_NOREPLACE",
    "PROT",
    "fallocate",
    "madvise",
    "mincore",
    "mlock",
    "mmap",
    "mprotect",
    "munlock",
    "munmap",
    "read_into",
    "vmsplice",
    "write_from",
]

MADVICE = {
    "MADV_WILLNEED": 3,
    "MADV_DONTNEED": 4,
    "MADV_REMOVE": 9,
    "MADV_HUGEPAGE": 14,
    "MADV_NOHUGEPAGE": 15,
    "MADV_COLD": 20,
    "MADV_PAGEOUT": 21,
    "MADV_POPULATE_READ": 22,
    "MADV_POPULATE_WRITE": 23,
    "MADV_COLLAPSE": 25,
}
"""What madvise(2) can be told. Kernel: include/uapi/asm-generic/mman-common.h."""

PROT = {"r": 1, "w": 2, "x": 4}
MAP_SHARED, MAP_PRIVATE = 1, 2
MAP_FIXED_NOREPLACE = 0x100000

FALLOC_FL = {"0": 0, "KEEP_SIZE": 1, "PUNCH_HOLE": 2 | 1}
"""Modes of fallocate(2) by their name in programs. Kernel: include/uapi/linux/falloc.h."""

SPLICE_F_NONBLOCK = 2


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    offset, ssize = ctypes.c_int64, ctypes.c_ssize_t
    for name, result, arguments in (
        ("mmap", pointer, (pointer, size, number, number, number, offset)),
        ("munmap", number, (pointer, size)),
        ("mprotect", number, (pointer, size, number)),
        ("madvise", number, (pointer, size, number)),
        ("mincore", number, (pointer, size, pointer)),
        ("mlock", number, (pointer, size)),
        ("munlock", number, (pointer, size)),
        ("fallocate", number, (number, number, offset, offset)),
        ("vmsplice", ssize, (number, pointer, size, ctypes.c_uint)),
        ("read", ssize, (number, pointer, size)),
        ("write", ssize, (number, pointer, size)),
    ):
        function = getattr(libc, name)
        function.restype, function.argtypes = result, arguments
    return libc


def _call(name: str, *arguments: object) -> int:
    result = getattr(_libc(), name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return int(result)


def protection(letters: str) -> int:
    """Return PROT_* of letters such as "rw" or "r-x"."""
    return sum(PROT[letter] for letter in letters if letter != "-")


def mmap(address: int, length: int, prot: str, private: bool, fd: int, offset: int) -> int:
    """Map a file at an address where nothing is yet, 0 for anywhere; returns the address."""
    flags = (MAP_PRIVATE if private else MAP_SHARED) | (MAP_FIXED_NOREPLACE if address else 0)
    result = _libc().mmap(address, length, protection(prot), flags, fd, offset)
    if result is None or result == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap: {os.strerror(number)}")
    return int(result)


def munmap(address: int, length: int) -> None:
    """Unmap a range."""
    _call("munmap", address, length)


def mprotect(address: int, length: int, prot: str) -> None:
    """Change the protection of a range."""
    _call("mprotect", address, length, protection(prot))


def madvise(address: int, length: int, advice: str) -> None:
    """Give advice about a range, by the advice's name."""
    _call("madvise", address, length, MADVICE[advice])


def mincore(address: int, pages: int) -> list[bool]:
    """Ask which pages of a mapping are resident."""
    vector = (ctypes.c_ubyte * pages)()
    _call("mincore", address, pages * 4096, ctypes.addressof(vector))
    return [bool(byte & 1) for byte in vector]


def mlock(address: int, length: int) -> None:
    """Lock a range in memory."""
    _call("mlock", address, length)


def munlock(address: int, length: int) -> None:
    """Unlock a range."""
    _call("munlock", address, length)


def fallocate(fd: int, mode: str, offset: int, length: int) -> None:
    """Call fallocate(2) with a mode by its name in programs."""
    _call("fallocate", fd, FALLOC_FL[mode], offset, length)


def vmsplice(fd: int, address: int, length: int) -> int:
    """Put a page of memory into a pipe, which holds a reference to it then."""
    vector = _IoVec(address, length)
    return _call("vmsplice", fd, ctypes.addressof(vector), 1, SPLICE_F_NONBLOCK)


def read_into(fd: int, address: int, length: int) -> int:
    """read(2) to an address: a store that reports EFAULT where a plain one would raise SIGBUS."""
    return _call("read", fd, address, length)


def write_from(fd: int, address: int, length: int) -> int:
    """write(2) from an address: a load that reports EFAULT where a plain one would raise SIGBUS."""
    return _call("write", fd, address, length)
