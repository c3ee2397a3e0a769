"""A controller that lives long stays as it was; `make bench` says so of two hundred kernels and iterations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_nb.bench.flatness import Census, iterations, kernels

MEGABYTE = 10**6


@pytest.mark.parametrize("work", [kernels, iterations])
def test_nothing_piles_up(work: Callable[[Path, int, int], Census], tmp_path: Path) -> None:
    """No descriptor, thread or process more after sixty kernels, or iterations, and hardly any memory."""
    more = work(tmp_path, 60, 10)
    assert (more.descriptors, more.threads, more.processes) == (0, 0, 0)
    assert more.memory < 5 * MEGABYTE
