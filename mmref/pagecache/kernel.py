# SPDX-License-Identifier: GPL-2.0-only
"""What differs between kernel versions outside of collapse_file() itself, one named rule each.

A machine has the rules of one version (`Machine(kernel="6.12")`); code asks for the rule by its name, never for
the version. What differs inside collapse_file() is a strategy of its own (`mmref.khugepaged`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mmref.errors import UsageError

__all__ = ["DEFAULT_KERNEL", "KERNELS", "KernelRules", "kernel_rules"]


@dataclass(frozen=True)
class KernelRules:
    """The rules of one kernel version.

    Attributes:
        version: as one writes it: ``"6.12"``.
        strategy: the name of its own collapse_file() among the strategies.
        pagevec_size: folios per LRU batch and per batch of a lookup: 15, and 31 since v6.9
            ("mm: increase folio batch size").
        recalc_with_deltas: shmem_recalc_inode() takes the lock itself, is told what changes, and is all that
            uncharging does. Linux 3c1b7528d896 (v6.6). Before, the caller held the lock, and a page went into the
            cache only after its block was accounted for.
        shmem_quotas: charging a tmpfs file for blocks, or giving them back, may sleep, as a quota may have to be read
            from disk. Linux e09764cff44b (v6.6).
        ro_thp_needs_exec: collapsing a read-only file wants VM_EXEC; 6.12 no longer does.
        disabled_vma_maps_no_pmd: a fault does not map a cached huge page by a PMD where huge pages are disabled by
            MADV_NOHUGEPAGE or prctl(). Linux 2b0f922323cc (v6.12).
        hugepage_registers_late: MADV_HUGEPAGE on shmem looks at the flags that the VMA had before, so only the second
            call makes khugepaged know the process. In 6.1; gone in 6.12.
        split_keeps_large: a large folio that is punched is split no further than needed, so larger folios remain
            around the hole. Linux 7460b470a131 (v6.15).
        faults_map_whole_folio: a fault maps all pages of a large folio, if it fits into the VMA and the page table,
            also outside the window of pages around the fault (v6.18, "mm/filemap: map entire large folio faultaround").
        open_has_fence: do_dentry_open() has a barrier between counting a writer and looking for huge folios. In 6.1;
            6.12 leaves it to get_write_access(), which is fully ordered in both.
        shmem_large_folios: faults on tmpfs may get folios of several pages that are smaller than a huge page. Linux
            e7a2ab7b3bb5 (v6.11).
        open_purges: opening a file on a disk for writing drops its cache if there is a huge page in it. Linux
            09d91cda0e82 (v5.4).
        purge_spares_copies: which leaves private copies mapped. Linux 8468e937df1f (v5.16).
        split_counts_thps: splitting a huge page of such a file lowers nr_thps. Linux 1ca7554d05ac (v5.15).
        writers_are_ordered: get_write_access() is fully ordered: who looks for huge pages next has been counted.
        uptodate_has_barrier: folio_mark_uptodate() lets the content be seen before the flag, by smp_wmb().
        shadows_are_split: a small folio that is put over the shadow of a huge one takes the place of one page alone.
            Linux 198b62f83eef (v5.9).
    """

    version: str
    strategy: str
    pagevec_size: int = 31
    recalc_with_deltas: bool = True
    shmem_quotas: bool = True
    ro_thp_needs_exec: bool = False
    disabled_vma_maps_no_pmd: bool = True
    hugepage_registers_late: bool = False
    split_keeps_large: bool = False
    faults_map_whole_folio: bool = False
    open_has_fence: bool = False
    shmem_large_folios: bool = True
    open_purges: bool = True
    purge_spares_copies: bool = True
    split_counts_thps: bool = True
    writers_are_ordered: bool = True
    uptodate_has_barrier: bool = True
    shadows_are_split: bool = True


_OLD = {
    "pagevec_size": 15,
    "recalc_with_deltas": False,
    "shmem_quotas": False,
    "ro_thp_needs_exec": True,
    "disabled_vma_maps_no_pmd": False,
    "hugepage_registers_late": True,
    "open_has_fence": True,
    "shmem_large_folios": False,
}

KERNELS: dict[str, KernelRules] = {
    rules.version: rules
    for rules in (
        KernelRules("6.1", "freeze-and-replace", **_OLD),  # type: ignore[arg-type]
        KernelRules("6.4", "lock-and-insert-late", **_OLD),  # type: ignore[arg-type]
        KernelRules("6.12", "upstream-6.12"),
        KernelRules("6.18", "upstream-6.12", split_keeps_large=True, faults_map_whole_folio=True),
    )
}
"""The versions that a machine can have, oldest first."""

DEFAULT_KERNEL = "6.4"
"""The version in which the seed patch was merged: its own strategy is the default one."""


def kernel_rules(version: str | KernelRules) -> KernelRules:
    """Return the rules of a version, or rules as they were given.

    Raises:
        UsageError: it is none of those that the model knows.

    >>> kernel_rules("6.1").strategy
    'freeze-and-replace'
    """
    if isinstance(version, KernelRules):
        return version
    found = KERNELS.get(version)
    if found is None:
        raise UsageError(f"There are no rules for kernel {version!r}; known are {', '.join(KERNELS)}.")
    return found
