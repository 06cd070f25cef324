# SPDX-License-Identifier: GPL-2.0-only
"""The kernel that runs here, or a skip that says why it cannot be asked."""

import pytest

from mmref.live import supported


@pytest.fixture(scope="session")
def support():
    return supported()


@pytest.fixture
def kernel(support):
    if not support:
        pytest.skip(support.reason)
    return support.kernel
