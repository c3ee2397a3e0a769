"""What an agent did in an earlier process of its run, for one that is to go on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlm_nb.records import Iteration


class Rewound(Exception):
    """A person wants the agent back where it was: right after an iteration.

    Args:
        iteration: Its number; 0 for before the first.
    """

    def __init__(self, iteration: int) -> None:
        super().__init__(f"back to iteration {iteration}")
        self.iteration = iteration


@dataclass(frozen=True)
class Past:
    """An agent's past.

    Args:
        iterations: The complete ones, in order.
        begun: One whose reply is there, and whose cells have not all run: those that have are in it.
        differing: What of the kernel and the files is not as it was, in sentences for the model; asked once it is
            needed, and waits until both are there. Raises what kept them from being built.
        said: What a person has to say to the agent now; empty for nothing.
    """

    iterations: tuple[Iteration, ...]
    begun: Iteration | None = None
    differing: Callable[[], Sequence[str]] = tuple
    said: str = ""
