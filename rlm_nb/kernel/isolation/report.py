"""What a confined process says of itself before it does anything else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from rlm_nb.kernel.isolation.policy import Level

MOST = 2000
"""Characters of one sentence; a report must fit into a pipe in one piece."""


@dataclass(frozen=True)
class Report:
    """How far a process was confined.

    Args:
        level: By what means.
        landlock: The version of Landlock in force; `None` for none.
        reached: The canaries that could be reached all the same, in words. Any of them means that nothing may run.
        error: The step that failed, in words; `None` when all were taken.
    """

    level: Level
    landlock: int | None = None
    reached: tuple[str, ...] = ()
    error: str | None = None

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `as_text` has written."""
        values: dict[str, Any] = json.loads(text)
        return cls(**(values | {"reached": tuple(values["reached"])}))

    def as_text(self) -> str:
        """For another process."""
        return json.dumps(vars(self))

    @property
    def fault(self) -> str | None:
        """Why nothing may run in it; `None` when something may."""
        if self.error is not None:
            return self.error[:MOST]
        return f"{', '.join(self.reached)} could be reached from inside" if self.reached else None
