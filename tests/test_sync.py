# SPDX-License-Identifier: GPL-2.0-only
"""The plain locks: they keep the rules even where nobody can wait."""

import pytest

from mmref.errors import Deadlock, InvariantViolation, Livelock
from mmref.sync import RwSem, SpinLock, cpu_relax, this_cpu


def test_spinlock():
    lock = SpinLock("xa_lock")
    with lock:
        assert lock.locked
        with pytest.raises(Deadlock, match="CPU 0 waits for xa_lock, which CPU 0 holds"):
            lock.acquire()
    assert not lock.locked
    with pytest.raises(InvariantViolation, match="xa_lock is released but nobody holds it"):
        lock.release()


def test_rwsem():
    sem = RwSem("inode_lock")
    sem.down_read()
    sem.down_read()
    with pytest.raises(Deadlock, match="exclusive"):
        sem.down_write()
    sem.up_read()
    sem.up_read()
    sem.down_write()
    with pytest.raises(Deadlock, match="shared"):
        sem.down_read()
    sem.up_write()
    for release in (sem.up_read, sem.up_write):
        with pytest.raises(InvariantViolation, match="nobody holds it"):
            release()


def test_spinning_alone_never_ends():
    with pytest.raises(Livelock, match="CPU 0 waits for a change that no other CPU is there to make"):
        cpu_relax()
    assert this_cpu().id == 0
