# SPDX-License-Identifier: GPL-2.0-only
"""userfaultfd(2): watch a mapping, touch a page from another thread, and serve the faults.

Only faults of user space are watched (UFFD_USER_MODE_ONLY), which every user may.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import struct
import threading
import time
from errno import EINVAL

from mmref.errors import MmrefError
from mmref.live.program import PAGE

__all__ = ["NoUserfaultfd", "Watch"]

_NUMBER = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "loongarch64": 282, "ppc64le": 364, "s390x": 355}
"""Number of the system call userfaultfd."""

_USER_MODE_ONLY = 1
_API = 0xAA
_FEATURES = 1 << 0 | 1 << 10 | 1 << 12  # PAGEFAULT_FLAG_WP, MINOR_SHMEM, WP_HUGETLBFS_SHMEM

_MODES = {"MISSING": 1, "WP": 2, "MINOR": 4}

_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_ZEROPAGE = 0xC020AA04
_UFFDIO_WRITEPROTECT = 0xC018AA06
_UFFDIO_CONTINUE = 0xC020AA07

_FLAG_WP, _FLAG_MINOR = 2, 4


class NoUserfaultfd(MmrefError):
    """This kernel has no userfaultfd, or not for this user."""


def _open() -> int:
    """Return a userfaultfd with as many features as this kernel has."""
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise NoUserfaultfd(f"The number of the system call is not known on {platform.machine()}.")
    libc = ctypes.CDLL(None, use_errno=True)
    for features in (_FEATURES, 0):
        fd = int(libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY))
        if fd < 0:
            raise NoUserfaultfd(f"userfaultfd: {os.strerror(ctypes.get_errno())}.")
        try:
            fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("=QQQ", _API, features, 0)))
        except OSError as error:
            os.close(fd)
            if error.errno != EINVAL or not features:
                raise NoUserfaultfd(f"userfaultfd: {error.strerror}.") from None
        else:
            return fd
    raise NoUserfaultfd("userfaultfd refuses every set of features.")


class Watch:
    """A userfaultfd that watches one mapping.

    Args:
        address: where the mapping begins.
        length: how long it is (bytes).
        mode: what to watch: MISSING, WP, MINOR, or several with ``|`` between them.

    Raises:
        OSError: the kernel refuses to watch that.
        NoUserfaultfd: there is none.
    """

    def __init__(self, address: int, length: int, mode: str) -> None:
        self.fd = _open()
        modes = sum(_MODES[one] for one in mode.split("|"))
        fcntl.ioctl(self.fd, _UFFDIO_REGISTER, bytearray(struct.pack("=QQQQ", address, length, modes, 0)))

    def touch(self, address: int, write: bool, timeout: float = 2.0) -> tuple[int, str]:
        """Touch a page from another thread, and serve the faults until it is through.

        Returns:
            how many faults there were, and of which kind the last was: none, missing, minor or wp.
        """
        thread = threading.Thread(target=_access, args=(address, write), daemon=True)
        thread.start()
        events, kind = 0, "none"
        deadline = time.monotonic() + timeout
        while thread.is_alive() and time.monotonic() < deadline:
            if not select.select([self.fd], [], [], 0.005)[0]:
                continue
            message = os.read(self.fd, 32)
            flags, fault = struct.unpack_from("=QQ", message, 8)
            events += 1
            kind = self._serve(flags, fault & -PAGE)
        thread.join(max(deadline - time.monotonic(), 0))
        if thread.is_alive():
            raise TimeoutError(f"the touch of {address:#x} did not come through")
        return events, kind

    def _serve(self, flags: int, address: int) -> str:
        """Resolve a fault in the plainest way, and say which kind it was."""
        if flags & _FLAG_WP:
            fcntl.ioctl(self.fd, _UFFDIO_WRITEPROTECT, bytearray(struct.pack("=QQQ", address, PAGE, 0)))
            return "wp"
        if flags & _FLAG_MINOR:
            fcntl.ioctl(self.fd, _UFFDIO_CONTINUE, bytearray(struct.pack("=QQQq", address, PAGE, 0, 0)))
            return "minor"
        fcntl.ioctl(self.fd, _UFFDIO_ZEROPAGE, bytearray(struct.pack("=QQQq", address, PAGE, 0, 0)))
        return "missing"


def _access(address: int, write: bool) -> None:
    """Load or store one byte, without holding the interpreter's lock meanwhile."""
    libc = ctypes.CDLL(None)
    byte = ctypes.c_ubyte()
    ours, theirs = ctypes.c_void_p(ctypes.addressof(byte)), ctypes.c_void_p(address)
    libc.memcpy(*((theirs, ours) if write else (ours, theirs)), ctypes.c_size_t(1))
