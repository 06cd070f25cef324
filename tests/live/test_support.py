# SPDX-License-Identifier: GPL-2.0-only
"""Why a kernel cannot be asked: one sentence each."""

import os
import platform

import pytest

from mmref.errors import UsageError
from mmref.live import Kernel, Program, run, support
from mmref.live.command import live
from mmref.live.support import supported


@pytest.fixture
def sysfs(tmp_path):
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    (tmp_path / "shmem_enabled").write_text("always within_size advise [never] deny force\n")
    (tmp_path / "hugepages-64kB").mkdir()
    (tmp_path / "hugepages-64kB" / "shmem_enabled").write_text("always inherit within_size advise [never]\n")
    return tmp_path


def test_the_answer_is_true_and_says_where(sysfs, kernel):
    found = supported(sysfs)
    assert found
    assert (found.reason, found.kernel) == ("", kernel)
    assert str(found) == f"Linux {platform.release()} can be asked"


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("hpage_pmd_size", "33554432", "A huge page has 33554432 bytes here"),
        ("shmem_enabled", "[always] never", "shmem_enabled is always: writes would allocate huge pages"),
        ("shmem_enabled", "always [force]", "is force"),
        ("shmem_enabled", "[deny]", "is deny, which forbids"),
        ("hugepages-64kB/shmem_enabled", "[within_size]", "hugepages-64kB/shmem_enabled is within_size"),
    ],
)
def test_settings_that_are_in_the_way_are_named(sysfs, path, text, reason, kernel):
    (sysfs / path).write_text(text)
    found = supported(sysfs)
    assert not found
    assert reason in found.reason == str(found)


def test_a_kernel_without_huge_pages(tmp_path, kernel):
    assert "was built without transparent huge pages" in supported(tmp_path / "nothing").reason


def test_an_old_kernel(sysfs, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "release", lambda: "5.15.0-91-generic")
    monkeypatch.setattr(os, "memfd_create", None, raising=False)
    assert "has no MADV_COLLAPSE for files (it came with 6.1)" in supported(sysfs).reason


def test_another_system(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    found = supported()
    assert (bool(found), found.reason, found.kernel) == (False, "This is Darwin, not Linux.", None)
    with pytest.raises(UsageError, match="Darwin"):
        live(1)
    with pytest.raises(UsageError, match="Darwin"):
        run(Program([("memfd", {"size": 0})]))


def test_a_python_without_memfd(sysfs, monkeypatch, kernel):
    monkeypatch.delattr(os, "memfd_create")
    assert "no os.memfd_create()" in supported(sysfs).reason


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ({"ret": -1, "errno": "EINVAL"}, "refuses MADV_COLLAPSE on a memfd"),
        ({"ret": -1, "errno": "ENOMEM"}, "fails with ENOMEM"),
        ({"died": "was killed by SIGSYS"}, "the process that tried was killed by SIGSYS"),
    ],
)
def test_a_kernel_that_refuses(sysfs, monkeypatch, kernel, last, reason):
    monkeypatch.setattr(support, "run_on_kernel", lambda _: [last])
    assert reason in supported(sysfs).reason


def test_a_process_that_may_not_fork(sysfs, monkeypatch, kernel):
    def refuse(_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(support, "run_on_kernel", refuse)
    assert "Operation not permitted" in supported(sysfs).reason


@pytest.mark.parametrize(
    ("release", "rules", "strategy"),
    [
        ("5.15.0", "6.1", "freeze-and-replace"),
        ("6.1.0-56-amd64", "6.1", "freeze-and-replace"),
        ("6.4.1", "6.4", "lock-and-insert-late"),
        ("6.9", "6.4", "lock-and-insert-late"),
        ("6.12.117", "6.12", "upstream-6.12"),
        ("6.18.44-fc", "6.18", "upstream-6.12"),
        ("7.2-rc1", "6.18", "upstream-6.12"),
    ],
)
def test_the_version_decides_the_rules_and_the_strategy(release, rules, strategy):
    kernel = Kernel.parse(release)
    assert (kernel.rules, kernel.strategy) == (rules, strategy)


@pytest.mark.parametrize("release", ["", "linux", "6", "x6.1"])
def test_what_is_no_release_is_refused(release):
    with pytest.raises(UsageError, match="is not the release"):
        Kernel.parse(release)
