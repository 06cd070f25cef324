# SPDX-License-Identifier: GPL-2.0-only
"""What only recordings do: other processes, swap, settings, control groups, khugepaged, and files on a disk.

The names and arguments are those of tests/data/kernel/FORMAT.md.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any
from zlib import crc32

from mmref.folio import Folio, MemCgroup
from mmref.live.generation import Kernel
from mmref.live.model import MappedFile, ModelFile, NotExpressed, mapped
from mmref.live.observation import MIXED, Observation, content_tags, runs, tag_of
from mmref.live.program import HUGE, HUGE_PAGES, PAGE
from mmref.pagecache import NR_FILE_THPS, NR_SHMEM, NR_SHMEM_THPS, RegularInode, folios_of
from mmref.pagecache.regular import RA_PAGES
from mmref.process import Process

__all__ = ["RecordedFile"]

BROKEN = -2
"""The tag of a page that cannot be read (EIO)."""

NOT_RESIDENT = -9
"""The tag of a page of a file on a disk that is not in the cache."""

TIMING = ("pages_to_scan", "alloc_sleep_millisecs", "scan_sleep_millisecs")
"""Settings of khugepaged that only say how fast it works."""


class RecordedFile(ModelFile):
    """The file of a recorded scenario.

    Attributes:
        counters: the counters of the machine, when it was last looked at.
        on_disk: the file is on a disk, not on tmpfs.
        read_all: the content of the file by pread(2), when that was the operation: runs of pages [first, behind, tag].
    """

    def __init__(self, kernel: Kernel, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(kernel, settings)
        self.counters: dict[str, int] = {}
        self.read_all: list[list[int]] | None = None
        self.on_disk = False
        self._looks_at_cache = "fs" in self.settings
        self._has_ro_thp = self._looks_at_cache or "READ_ONLY_THP_FOR_FS=y" in self.settings.get("note", "")
        self._peer: MappedFile | None = None
        self._sealed: frozenset[str] = frozenset()
        self._read_only = False
        self._writers: list[Callable[[], None]] = []
        self._group: MemCgroup | None = None
        self._anon: MappedFile | None = None

    # Looking ----------------------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """Look at the file; the -rofs recordings look at what is in the cache of a file on a disk, and read nothing."""
        self.reads &= not self._looks_at_cache
        self.counters = self._counters()  # first: reading brings in what was swapped out
        seen = super().observe()
        if self._looks_at_cache:
            file = self.file
            cached = folios_of(file.mapping)
            pages = [(page, cached.get(page)) for page in range(-(-file.size // PAGE))]
            seen["content"] = runs(_resident_tag(folio, page) for page, folio in pages)
            thp = (folio is not None and folio.order > 0 for _, folio in pages)
            dirty = (folio is not None and folio.test_dirty() for _, folio in pages)
            seen["cache_thp"] = [run[:2] for run in runs(thp, False)]
            seen["cache_dirty"] = [run[:2] for run in runs(dirty, False)]
        return seen

    def content(self) -> tuple[list[list[int]], list[list[int]]]:
        """Read the file page by page: one whose memory is broken gives EIO."""
        tags, mixed = [], []
        for page in range(-(-self.file.size // PAGE)):
            try:
                content = self.file.read(page * PAGE, PAGE)
            except OSError:
                tags.append(BROKEN)
                continue
            tags.append(tag_of(content, page))
            if tags[-1] == MIXED:
                mixed.append([page, crc32(content)])
        return runs(tags), mixed

    def unmap(self) -> None:
        """Unmap the main mapping, which recordings do without saying so."""
        if self.mapping is not None:
            self.process.munmap(self.mapping.start, self.mapping.length)
            self.mapping = None

    def _counters(self) -> dict[str, int]:
        """Return the counters of /proc/vmstat that recordings have and that do not depend on other processes."""
        stats = self.machine.stats
        return {
            "nr_shmem": stats[NR_SHMEM],
            "nr_shmem_hugepages": stats[NR_SHMEM_THPS] // HUGE_PAGES,
            "nr_file_hugepages": stats[NR_FILE_THPS] // HUGE_PAGES,
        }

    def one_area(self) -> bool:
        """Tell whether the main mapping is still one VMA: the recordings' smaps are those of its first."""
        mapping = self.mapping
        if mapping is None:
            return False
        vma = self.process.mm.find_vma(mapping.start)
        return vma is not None and vma.vm_end == mapping.start + mapping.length

    def peer_smaps(self) -> dict[str, int] | None:
        """Return what /proc/PID/smaps says of the other process's mapping (kB)."""
        if self._peer is None:
            return None
        found = self._peer.smaps()
        return {key: found[key] for key in ("Rss", "ShmemPmdMapped")}

    # A file on tmpfs ------------------------------------------------------------------------------------------

    def _do_note(self, **_: Any) -> None:
        pass

    def _do_tmpfs_file(self, opts: str, size: int) -> None:
        options = dict(option.partition("=")[::2] for option in opts.split(",") if option)
        huge = options.pop("huge", "never")
        pages = int(limit) if (limit := options.pop("nr_blocks", None)) else None
        if (text := options.pop("size", None)) is not None:
            pages = int(text.rstrip("m")) * (1 << 20) // PAGE
        if options:
            raise NotExpressed(f"a tmpfs mounted with {opts}")
        self._file = self.machine.shmem_file("file", size, pages, huge)

    def _do_seal(self, seals: str) -> None:
        self._sealed = frozenset(seals.split("|"))

    def _do_reopen_ro(self) -> None:
        self._read_only = True

    def _do_pwrite_pages(self, lo: int, hi: int, gen: int, step: int = 1) -> int:
        if self._read_only:
            raise OSError(errno.EBADF, "Opened for reading")
        if "WRITE" in self._sealed:
            raise OSError(errno.EPERM, "Sealed against writing")
        return super()._do_pwrite_pages(lo, hi, gen, step)

    def _do_mmap_anon_shared(self) -> None:
        """A mapping of memory that processes share is one of a tmpfs file without a name."""
        file = self.machine.shmem_file("anonymous", HUGE)
        self._anon = MappedFile(self.process, self.process.mmap(file.inode, HUGE), HUGE)
        self._anon.store(range(HUGE_PAGES), 1)

    def _do_madvise_collapse_anon_shared(self) -> None:
        anon = mapped(self._anon, "mmap_anon_shared")
        self.collapse(self.process, anon.start, anon.length)

    def _do_mmap(self, len: int, off: int = 0, prot: str = "rw", flags: str = "shared", skew: int = 0) -> None:
        if self.on_disk and not self._looks_at_cache:
            prot += "x"  # recorded with two letters only, but 6.1 collapses files that are mapped executable, and did
        super()._do_mmap(len, off, prot, flags, skew)

    def map_at(self, start: int, length: int, off: int, prot: str, shared: bool) -> None:
        """mmap(2) at an address; a writable one of a file on a disk counts as a writer."""
        super().map_at(start, length, off, prot, shared)
        inode = self.file.inode
        if shared and "w" in prot and isinstance(inode, RegularInode):
            inode.i_writecount += 1

    def _do_uffd_register(self, mode: str, vma: int) -> None:
        if "WP" in mode and "minimal build" in self.settings.get("note", ""):
            raise NotExpressed("a kernel built without CONFIG_PTE_MARKER_UFFD_WP, which refuses the mode WP on shmem")
        super()._do_uffd_register(mode, vma)

    def _do_madvise(self, advice: str, off: int, len: int) -> None:
        if advice == "MADV_COLD" and (off % HUGE or len % HUGE):
            cached = folios_of(self.file.mapping)
            if any(page in cached and cached[page].order for page in range(off // PAGE, (off + len) // PAGE)):
                raise NotExpressed("MADV_COLD over a part of a huge page, which splits it")
        super()._do_madvise(advice, off, len)

    # Another process -------------------------------------------------------------------------------------------

    def _do_peer_map(self, a: int, b: int, **_: Any) -> None:
        process = self.machine.process("peer")
        self._peer = MappedFile(process, process.mmap(self.file.inode, a, skew=b), a)
        self.ranges = max(self.ranges, -(-a // HUGE))

    def _do_peer_read(self, a: int, b: int, **_: Any) -> None:
        mapped(self._peer, "peer_map").load(a, b)

    def _do_peer_write(self, a: int, b: int, c: int) -> None:
        mapped(self._peer, "peer_map").store(range(a, b), c)

    def _do_peer_collapse(self, a: int, b: int, **_: Any) -> None:
        peer = mapped(self._peer, "peer_map")
        self.collapse(peer.process, peer.start + a, b)

    def _do_peer_mlock(self, a: int, b: int, **_: Any) -> None:
        peer = mapped(self._peer, "peer_map")
        peer.process.mlock(peer.start + a, b)

    # Settings ---------------------------------------------------------------------------------------------------

    def _do_set(self, path: str, val: str) -> None:
        where = PurePosixPath(path)
        if where.parts[:3] == ("/", "sys", "fs"):
            self._set_cgroup(where.name, val)
        elif where.parent.name.startswith("hugepages-"):
            self._set_mthp(where, val)
        elif where.name not in TIMING:
            self.machine.khugepaged.set(where.name, val)

    def _set_mthp(self, where: PurePosixPath, val: str) -> None:
        """Set which sizes of large folios a fault on tmpfs may get: /sys/.../hugepages-64kB/shmem_enabled."""
        if where.name != "shmem_enabled" or val not in ("always", "never"):
            raise NotExpressed(f"{where.parent.name}/{where.name} set to {val}")
        size = int(where.parent.name.removeprefix("hugepages-").removesuffix("kB"))
        order = (size * 1024 // PAGE).bit_length() - 1
        orders = self.machine.memory.shmem_orders - {order}
        self.machine.set_shmem_orders(*(orders | {order} if val == "always" else orders))

    def _do_map_write_one_per_64k(self, lo: int, hi: int) -> int:
        """Store to the first page of each 64 KiB, as far as a range of pages goes."""
        return mapped(self.mapping, "mmap").store(range(lo, hi, (64 << 10) // PAGE), 1)

    def _set_cgroup(self, name: str, val: str) -> None:
        if self._group is None:
            self._group = self.machine.cgroup("orc")
        pages = None if val == "max" else int(val) // PAGE
        if name == "memory.max":
            self._group.limit = pages
        elif name == "memory.swap.max":
            self._group.swap_limit = pages
        else:
            raise NotExpressed(f"the file {name} of a control group")

    def _do_cgroup_enter(self) -> None:
        self.machine.enter_cgroup(self._group)

    def _do_prctl_thp_disable(self, v: int) -> None:
        self.process.thp_disable(bool(v))

    def _do_khugepaged_run(self, full_scans: int = 3, madv_hugepage_calls: int = 2) -> None:
        """Ask for huge pages as often as the recording did, let the daemon walk, and ask for none again."""
        mapping = mapped(self.mapping, "mmap")
        for _ in range(madv_hugepage_calls):
            self.process.madvise("MADV_HUGEPAGE", mapping.start, mapping.length)
        self.machine.khugepaged_run(full_scans + 1)
        self.process.madvise("MADV_NOHUGEPAGE", mapping.start, mapping.length)

    # A file on a disk ------------------------------------------------------------------------------------------

    def _do_create(self, pages: int, gen: int, fsync: int, evict: int) -> None:
        self._create(pages * PAGE, [(0, pages)], gen, bool(fsync), bool(evict))

    def _do_create_sparse(self, size: int, write: list[tuple[int, int]], gen: int) -> None:
        self._create(size, write, gen, True, True)

    def _do_file_create(self, fs: str, size: int, lo: int, hi: int, fsync: int, keep_rw_fd: int) -> None:
        if fs != "ext4":
            raise NotExpressed(f"a file on {fs}")
        self._create(size, [(lo, hi)], 1, bool(fsync), False, bool(keep_rw_fd))

    def _create(
        self, size: int, written: list[tuple[int, int]], gen: int, fsync: bool, evict: bool, keep: bool = False
    ) -> None:
        """Create a file, write some pages of it, and make it clean or not cached as asked."""
        self.on_disk = True
        file = self._file = self.machine.ro_file("file")
        close = file.open_for_write()
        file.truncate(size)
        for lo, hi in written:
            self._do_pwrite_pages(lo, hi, gen)
        if fsync:
            file.fsync()
        if evict:
            file.fadvise_dontneed()
        if keep:
            self._writers.append(close)
        else:
            close()

    def _do_open_ro(self) -> None:
        pass

    def _do_open_w(self, flags: str) -> None:
        self._writers.append(self.file.open_for_write())
        if "O_TRUNC" in flags:
            self.file.truncate(0)

    def _do_open_for_write(self) -> None:
        self._do_open_w("O_RDWR")

    def _do_close_w(self) -> None:
        self._writers.pop()()

    def _do_close_writer(self) -> None:
        self._do_close_w()

    def _do_fsync(self) -> None:
        self.file.fsync()

    def _do_sync(self) -> None:
        self.file.fsync()

    def _do_truncate(self, size: int) -> None:
        self.file.truncate(size)

    def _do_fadvise_dontneed(self, lo: int = 0, hi: int | None = None) -> None:
        self.file.fadvise_dontneed(lo, None if hi is None else hi - lo)

    def _do_drop_caches(self) -> None:
        self._do_fadvise_dontneed()

    def _do_pread_pages(self, lo: int, hi: int, step: int = 1, fadvise: str = "") -> int:
        inode = self.file.inode
        if not isinstance(inode, RegularInode):
            raise NotExpressed("pread_pages of a file on tmpfs")
        if not self._looks_at_cache:
            raise NotExpressed("read(2) of many pages at once, which reads ahead of itself (struct file_ra_state)")
        for page in range(lo, hi, step):
            inode.file_read(page * PAGE, 8, 1 if fadvise == "random" else RA_PAGES)
        return len(range(lo, hi, step))

    def _do_pread_all(self) -> None:
        self.read_all = content_tags(self.file.read(0, self.file.size))[0]

    def _do_mlock(self, off: int = 0, len: int | None = None) -> None:
        super()._do_mlock(off, mapped(self.mapping, "mmap").length if len is None else len)

    def _do_mmap_shared_write_then_unmap(self, lo: int, hi: int, gen: int) -> None:
        close = self.file.open_for_write()
        start = self.process.mmap(self.file.inode, hi * PAGE)
        MappedFile(self.process, start, hi * PAGE).store(range(lo, hi), gen)
        self.process.munmap(start, hi * PAGE)
        close()

    def collapse(self, process: Process, start: int, length: int) -> None:
        """madvise(2) with MADV_COLLAPSE; a kernel built without it refuses files on a disk."""
        if self.on_disk and not self._has_ro_thp:
            raise OSError(errno.EINVAL, "CONFIG_READ_ONLY_THP_FOR_FS is not set")
        super().collapse(process, start, length)


def _resident_tag(folio: Folio | None, page: int) -> int:
    if folio is None or not folio.test_uptodate():
        return NOT_RESIDENT
    return tag_of(folio.read((page - folio.index) * PAGE, PAGE), page)
