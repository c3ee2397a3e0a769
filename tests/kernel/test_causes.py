"""The words for what limits did."""

from __future__ import annotations

from rlm_nb.kernel import causes
from rlm_nb.kernel.limits import Limits
from rlm_nb.kernel.watch import MEMORY, PROCESSES

LIMITS = Limits(memory=3 << 29, processes=40)


def test_how_a_kernel_ended() -> None:
    """The limit is named when its supervisor saw it passed; memory only where nobody else is known to have killed."""
    assert causes.of_death(3, [], LIMITS, memory_ran_out=True) == "exit code 3"
    assert causes.of_death(-11, [], LIMITS, memory_ran_out=True) == "signal SIGSEGV"
    assert causes.of_death(-40, [], LIMITS, memory_ran_out=False) == "signal 40"
    assert causes.of_death(-9, [], LIMITS, memory_ran_out=True) == (
        "signal SIGKILL, because the machine's memory ran out"
    )
    passed = [(PROCESSES, 1), (MEMORY, 0)]
    assert causes.of_death(-9, passed, LIMITS, memory_ran_out=True).startswith(
        "signal SIGKILL, because the kernel and what it started took more than 1.5 GiB of memory (kernel.memory_limit)"
    )


def test_what_was_killed_without_the_kernel() -> None:
    """One sentence for each limit, however often it was passed."""
    losses = causes.of_losses([(PROCESSES, 1), (MEMORY, 1), (PROCESSES, 1), (MEMORY, 0)], LIMITS)
    assert ["kernel.processes" in loss for loss in losses] == [True, False]
    assert ["kernel.memory_limit" in loss for loss in losses] == [False, True]
    assert not causes.of_losses([(MEMORY, 0)], LIMITS)


def test_advice_to_a_memory_error() -> None:
    """numpy's own kind included; none to other errors, nor where there is no limit."""
    (advice,) = causes.of_error("_ArrayMemoryError: Unable to allocate 9 GiB: too much", LIMITS)
    assert "1.5 GiB" in advice
    for error, limits in ((None, LIMITS), ("ValueError: MemoryError: no", LIMITS), ("MemoryError: ", Limits())):
        assert not causes.of_error(error, limits)
