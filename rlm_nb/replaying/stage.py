"""Where recorded cells run again: the files that their agent began with, in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.config import WorkspaceSettings
from rlm_nb.recalling import Recalled
from rlm_nb.records import JSON
from rlm_nb.surroundings import may_delegate
from rlm_nb.workspace.scratch import remove_abandoned, scratch
from rlm_nb.workspace.source import Source


@dataclass(frozen=True)
class Stage:
    """A place for one agent's cells.

    Args:
        folder: The folder of all of it, which is gone at the end.
        worktree: The top of the files.
        workdir: Where cells run.
        objects: The folder with the run's objects, for edits that are taken over.
        borrowed: All folders of objects that the files are read from.
    """

    folder: Path
    worktree: Path
    workdir: Path
    objects: Path
    borrowed: tuple[Path, ...]


@contextmanager
def stage(past: Recalled) -> Iterator[Stage]:
    """Write the files that an agent began with. The record is only read, and nothing else on this machine is touched.

    Raises:
        RunFolderError: The record does not hold them, or there is no place for them.
        GitError: They cannot be read: the repository that they were borrowed from may be gone.
    """
    remove_abandoned()
    settings = WorkspaceSettings.model_validate(past.recorded.settings.get("workspace", {}))
    with scratch() as folder:
        source = Source.borrow(past.notebook.parent, past.recorded.start, folder / "ctl.git", settings)
        workdir = source.write(folder, past.base)
        yield Stage(folder, folder / "work", workdir, source.ctl / "objects", source.borrowed)


def greeting(past: Recalled, place: Stage | None) -> dict[str, JSON]:
    """What the agent's kernel is told when it begins; see `controller.Run`."""
    task, rlm = past.recorded.task, past.recorded.settings.get("rlm", {})
    told: dict[str, JSON] = {
        "task": task.prompt,
        "subagents": may_delegate(task, rlm.get("max_depth", task.depth + 1)),
        "context": str(task.context) if task.context else None,
    }
    if place is not None:
        told |= {"objects": str(place.objects), "worktree": str(place.worktree)}
    return told
