from __future__ import annotations

import pytest

from rlm_nb.kernel.launch import FOUND


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    """Each test finds out for itself what this machine can hold, whichever ran before it."""
    FOUND.clear()
