# SPDX-License-Identifier: GPL-2.0-only
"""khugepaged: the daemon that walks the address spaces of processes that want huge pages."""

from __future__ import annotations

from mmref.errors import UsageError
from mmref.khugepaged.control import CollapseControl, TraceEvent
from mmref.khugepaged.page_tables import collapse_pte_mapped_thp, hugepage_vma_check
from mmref.khugepaged.result import ScanResult
from mmref.khugepaged.scan import hpage_collapse_scan_file
from mmref.khugepaged.strategy import CollapseStrategy
from mmref.pagecache import Memory, Mm, Vma

__all__ = ["SHMEM_ENABLED", "THP_ENABLED", "Khugepaged"]

THP_ENABLED = ("always", "madvise", "never")
"""What /sys/kernel/mm/transparent_hugepage/enabled can say."""

SHMEM_ENABLED = ("always", "within_size", "advise", "never", "deny", "force")
"""What /sys/kernel/mm/transparent_hugepage/shmem_enabled can say."""


class Khugepaged:
    """The daemon, with its settings in /sys/kernel/mm/transparent_hugepage.

    Kernel: struct khugepaged_scan, mm/khugepaged.c.

    Attributes:
        max_ptes_none: how many pages of a huge page may be missing.
        max_ptes_swap: how many may be in swap.
        max_ptes_shared: how many may be shared; only anonymous memory is judged by it.
        enabled: one of `THP_ENABLED`.
        shmem_enabled: one of `SHMEM_ENABLED`.
        node_reclaim: see `CollapseControl.node_reclaim`.
        trace: what it and MADV_COLLAPSE have done, oldest first.
    """

    def __init__(self, memory: Memory, order: int) -> None:
        nr = 1 << order
        self.memory = memory
        self.max_ptes_none = nr - 1
        self.max_ptes_swap = nr // 8
        self.max_ptes_shared = nr // 2
        self.enabled = "madvise"
        self.shmem_enabled = "never"
        self.node_reclaim = False
        self.trace: list[TraceEvent] = []
        self._mms: dict[Mm, list[int]] = {}

    def __repr__(self) -> str:
        return f"<Khugepaged: {len(self._mms)} processes>"

    def set(self, name: str, value: str) -> None:
        """Change a setting by the name of its sysfs file, as one would write to it.

        Raises:
            UsageError: there is no such setting, or it cannot have that value.
        """
        choices = {"enabled": THP_ENABLED, "shmem_enabled": SHMEM_ENABLED}.get(name)
        if choices is not None:
            if value not in choices:
                raise UsageError(f"{name} cannot be {value!r}; give one of {', '.join(choices)}.")
            setattr(self, name, value)
        elif name in ("max_ptes_none", "max_ptes_swap", "max_ptes_shared"):
            if not value.isdecimal():
                raise UsageError(f"{name} cannot be {value!r}; give a number of pages.")
            setattr(self, name, int(value))
        else:
            raise UsageError(f"There is no setting {name!r}; known are enabled, shmem_enabled, max_ptes_none, "
                             "max_ptes_swap and max_ptes_shared.")  # fmt: skip

    def control(self, is_khugepaged: bool = False) -> CollapseControl:
        """Return the settings for one run; its events come into the trace of all."""
        return CollapseControl(
            is_khugepaged=is_khugepaged, max_ptes_none=self.max_ptes_none, max_ptes_swap=self.max_ptes_swap,
            node_reclaim=self.node_reclaim, trace=self.trace,
        )  # fmt: skip

    def enter_vma(self, vma: Vma, hugepage: bool | None) -> None:
        """Register the process of a VMA, if the settings want huge pages there.

        Kernel: khugepaged_enter_vma(), mm/khugepaged.c.

        Args:
            vma: the VMA.
            hugepage: MADV_HUGEPAGE as it was before the call that asks: in 6.1 shmem looks at that.
        """
        if self.eligible(vma, vma.hugepage if not self.memory.rules.hugepage_registers_late else hugepage):
            self._mms.setdefault(vma.mm, [])

    def eligible(self, vma: Vma, hugepage: bool | None) -> bool:
        """Tell whether the settings allow huge pages. Kernel: thp_vma_allowable_order(), include/linux/huge_mm.h."""
        if not hugepage_vma_check(vma):
            return False
        if vma.mapping.host.is_shmem:
            if self.shmem_enabled in ("always", "force"):
                return True
            return self.shmem_enabled in ("advise", "within_size") and hugepage is True
        return self.enabled == "always" or (self.enabled == "madvise" and hugepage is True)

    def exit_mm(self, mm: Mm) -> None:
        """Forget a process that ends. Kernel: khugepaged_exit(), include/linux/khugepaged.h."""
        self._mms.pop(mm, None)

    def scan(self, strategy: CollapseStrategy, full_scans: int = 1) -> int:
        """Walk all registered processes; return how many huge pages were collapsed.

        Kernel: khugepaged_scan_mm_slot(), mm/khugepaged.c, until every process has been walked `full_scans` times.
        """
        collapsed = 0
        for _ in range(full_scans):
            self.memory.lru.drain_all()  # Kernel: khugepaged_do_scan()
            for mm in list(self._mms):
                collapsed += self._scan_mm(mm, strategy)
        return collapsed

    def _scan_mm(self, mm: Mm, strategy: CollapseStrategy) -> int:
        self._collapse_pte_mapped_thps(mm)
        if mm.exiting:
            self.exit_mm(mm)
            return 0
        collapsed, huge = 0, mm.huge_size
        control = self.control(is_khugepaged=True)
        control.mm = mm
        with _Shared(mm):
            vmas = [vma for vma in mm.vmas if self.eligible(vma, vma.hugepage)]
        for vma in vmas:
            for address in range(-(-vma.vm_start // huge) * huge, vma.vm_end // huge * huge, huge):
                control.address = address
                result, _ = hpage_collapse_scan_file(vma.mapping, vma.index_of(address), strategy, control)
                if result is ScanResult.PTE_MAPPED_HUGEPAGE:
                    result = self._pte_mapped(mm, address, strategy)
                collapsed += result is ScanResult.SUCCEED
        for other, address in control.pte_mapped:
            if address not in self._mms.get(other, []):
                self._mms.setdefault(other, []).append(address)
        return collapsed

    def _pte_mapped(self, mm: Mm, address: int, strategy: CollapseStrategy) -> ScanResult:
        """Take away a page table that maps a huge page: at once, or (until v6.6) at the next visit."""
        if strategy.exclusive_page_tables:
            if address not in self._mms[mm]:
                self._mms[mm].append(address)
            return ScanResult.PTE_MAPPED_HUGEPAGE
        with _Shared(mm):
            if mm.exiting:
                return ScanResult.ANY_PROCESS
            result = collapse_pte_mapped_thp(mm, address, install_pmd=False)
        return ScanResult.SUCCEED if result is ScanResult.PMD_MAPPED else result

    def _collapse_pte_mapped_thps(self, mm: Mm) -> None:
        """Take away the page tables left from the last visit. Kernel: khugepaged_collapse_pte_mapped_thps() (6.1)."""
        addresses = self._mms.get(mm, [])
        if not addresses or not mm.mmap_lock.down_write_trylock():
            return
        try:
            while addresses:
                collapse_pte_mapped_thp(mm, addresses.pop(0), install_pmd=False)
        finally:
            mm.mmap_lock.up_write()


class _Shared:
    """Hold `mmap_lock` shared."""

    def __init__(self, mm: Mm) -> None:
        self.mm = mm

    def __enter__(self) -> None:
        self.mm.mmap_lock.down_read()

    def __exit__(self, *exc: object) -> None:
        self.mm.mmap_lock.up_read()
