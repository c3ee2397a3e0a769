"""Takes what an agent of a recorded run changed home, into the user's files. Onto a branch, `branch.py` does."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.errors import SourceError
from rlm_nb.merging.edits import Edits
from rlm_nb.workspace import git
from rlm_nb.workspace.worktree import writing


@dataclass(frozen=True)
class Home:
    """Where the edits of a run belong.

    Args:
        repository: What the run worked on: an absolute path, or a URL.
        checkout: The folder whose files they are of; `None` for a bare repository or a URL.
        commit: The user's commit that the run started from; empty when there was none.
        task: What the run was asked to do.
    """

    repository: str
    checkout: Path | None
    commit: str = ""
    task: str = ""

    @property
    def is_url(self) -> bool:
        """Whether there is nothing on this machine to bring edits to."""
        return not Path(self.repository).is_absolute()

    def elsewhere(self) -> SourceError:
        """What is to be said about a URL."""
        return SourceError(
            f"{self.repository} is not on this machine; clone it, and there say `rlm-nb diff RUN | git apply --3way`"
        )


def instruction(home: Home, patch: Path, command: str) -> str:
    """`to have it: rlm-nb apply …`, or what else is to be typed where there is no checkout.

    Args:
        home: Where the edits belong.
        patch: An absolute path: the file with the run's edits.
        command: The command that applies them to a checkout.
    """
    if home.is_url:
        return f"to have it in a clone: git apply {shlex.quote(str(patch))}"
    return f"to have it: {command}{' --branch NAME' if home.checkout is None else ''}"


def apply(edits: Edits, home: Home) -> list[str]:
    """Merge the edits into the files as they are now; returns those that this changed, none when all was there already.

    Nothing but files is changed: no index, branch, stash, hook or setting.

    Raises:
        EditConflictError: They do not fit to what has been changed there meanwhile; nothing was changed.
        SourceError: There are no files to merge them into.
        GitError: The run's commits cannot be read.
        RunFolderError: A file cannot be written; all is as it was.
    """
    top = home.checkout
    if top is None:
        if home.is_url:
            raise home.elsewhere()
        raise SourceError(f"{home.repository} is a bare repository, which has no files: say --branch NAME")
    if not top.is_dir():
        raise SourceError(f"{top}, which the run worked on, is not there any more")
    otherwise = "--branch NAME puts the edits on a branch, onto the commit that the run started from."
    modes = git.of_user(top).attempt("config", "--type=bool", "--get", "core.fileMode").out != b"false\n"
    with writing(top):
        return edits.apply(top, top, modes=modes, otherwise=otherwise if home.commit else "")
