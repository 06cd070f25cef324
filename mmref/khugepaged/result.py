# SPDX-License-Identifier: GPL-2.0-only
"""What a collapse came to: the SCAN_* codes and the errno that MADV_COLLAPSE makes of each."""

from __future__ import annotations

from enum import Enum
from errno import EAGAIN, EBUSY, EINVAL, ENOMEM

__all__ = ["ANONYMOUS_ONLY", "ScanResult"]


class ScanResult(Enum):
    """Result codes; `ScanResult.PAGE_COUNT` is the kernel's SCAN_PAGE_COUNT.

    Kernel: enum scan_result, mm/khugepaged.c. The value is the kernel's text for the code
    (include/trace/events/huge_memory.h).

    >>> ScanResult.PAGE_COUNT.errno == EAGAIN
    True
    """

    FAIL = "failed"
    SUCCEED = "succeeded"
    PMD_NULL = "pmd_null"
    PMD_NONE = "pmd_none"
    PMD_MAPPED = "page_pmd_mapped"
    EXCEED_NONE_PTE = "exceed_none_pte"
    EXCEED_SWAP_PTE = "exceed_swap_pte"
    EXCEED_SHARED_PTE = "exceed_shared_pte"
    PTE_NON_PRESENT = "pte_non_present"
    PTE_UFFD_WP = "pte_uffd_wp"
    PTE_MAPPED_HUGEPAGE = "pte_mapped_hugepage"
    PAGE_RO = "no_writable_page"
    LACK_REFERENCED_PAGE = "lack_referenced_page"
    PAGE_NULL = "page_null"
    SCAN_ABORT = "scan_aborted"
    PAGE_COUNT = "not_suitable_page_count"
    PAGE_LRU = "page_not_in_lru"
    PAGE_LOCK = "page_locked"
    PAGE_ANON = "page_not_anon"
    PAGE_COMPOUND = "page_compound"
    ANY_PROCESS = "no_process_for_page"
    VMA_NULL = "vma_null"
    VMA_CHECK = "vma_check_failed"
    ADDRESS_RANGE = "not_suitable_address_range"
    DEL_PAGE_LRU = "could_not_delete_page_from_lru"
    ALLOC_HUGE_PAGE_FAIL = "alloc_huge_page_failed"
    CGROUP_CHARGE_FAIL = "ccgroup_charge_failed"
    TRUNCATED = "truncated"
    PAGE_HAS_PRIVATE = "page_has_private"
    STORE_FAILED = "store_failed"
    COPY_MC = "copy_poisoned_page"
    PAGE_FILLED = "page_filled"

    @property
    def succeeded(self) -> bool:
        """Whether the range is one huge folio now."""
        return self in (ScanResult.SUCCEED, ScanResult.PMD_MAPPED, ScanResult.PTE_MAPPED_HUGEPAGE)

    @property
    def errno(self) -> int:
        """The positive errno that MADV_COLLAPSE reports, 0 for success.

        Kernel: madvise_collapse_errno(), mm/khugepaged.c. EAGAIN says that trying again may help, EBUSY and
        ENOMEM that a resource is missing, EINVAL that the range itself is at fault.
        """
        if self.succeeded:
            return 0
        return _ERRNO.get(self, EINVAL)


_ERRNO = {
    ScanResult.ALLOC_HUGE_PAGE_FAIL: ENOMEM,
    ScanResult.CGROUP_CHARGE_FAIL: EBUSY,
    ScanResult.EXCEED_NONE_PTE: EBUSY,
    ScanResult.PAGE_COUNT: EAGAIN,
    ScanResult.PAGE_LOCK: EAGAIN,
    ScanResult.PAGE_LRU: EAGAIN,
    ScanResult.DEL_PAGE_LRU: EAGAIN,
    ScanResult.PAGE_FILLED: EAGAIN,
}

ANONYMOUS_ONLY = frozenset({
    ScanResult.EXCEED_SHARED_PTE, ScanResult.PAGE_RO, ScanResult.LACK_REFERENCED_PAGE,
})  # fmt: skip
"""Results that the kernel has for anonymous memory alone (hpage_collapse_scan_pmd()), which is not modelled."""
