"""One signal for what is stopped, and a little more time for what must be done all the same."""

from __future__ import annotations

import time

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import CancelledError


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_grace_ends_so_many_seconds_after_somebody_cancelled(when: str) -> None:
    """Whether that was before the grace began or while it went on."""
    cancel = Cancellation()
    if when == "before":
        cancel.cancel("enough")
    with cancel.grace(0.2) as late:
        assert not late.is_cancelled()
        cancel.cancel("enough")
        began = time.monotonic()
        assert late.wait(10)
        assert time.monotonic() - began > 0.1
    with pytest.raises(CancelledError, match=r"enough, and 0\.2 s more"):
        late.check()


def test_grace_ends_so_many_seconds_after_the_deadline() -> None:
    """A deadline that passed long ago leaves no less."""
    with Cancellation(time.monotonic() - 100).grace(0.2) as late:
        assert not late.is_cancelled()
        assert late.wait(10)
    with Cancellation(time.monotonic() + 100).grace(0.2) as late:
        left = late.seconds_left()
        assert left is not None
        assert 99 < left < 101
    with Cancellation().grace(0.2) as late:
        assert late.seconds_left() is None
