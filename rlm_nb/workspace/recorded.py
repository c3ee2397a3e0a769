"""The commits of a recorded run, read past whatever its agents may have put beside them.

Agents can reach `ctl.git`. So of it count the names of its commits and its objects, never its settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.errors import GitError, RunFolderError
from rlm_nb.merging.edits import Edits
from rlm_nb.workspace import git, repository
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.origin import START
from rlm_nb.workspace.scratch import scratch

AGENTS = "refs/rlm/"


@dataclass(frozen=True)
class Recorded:
    """A recorded run's commits. Open it with `recorded`.

    Args:
        git: A repository that borrows the run's objects, and is gone at the end.
        algorithm: How objects are named, `sha1` or `sha256`.
        objects: The folder with the run's objects.
        folder: The run's folder.
        refs: The commits by the names of their refs.
    """

    git: Git
    algorithm: str
    objects: Path
    folder: Path
    refs: Mapping[str, str]

    def edits(self, agent: str) -> Edits:
        """What an agent changed: from the state that it started with to the last one that was kept.

        Args:
            agent: `root.1.2`, or short `1.2`.

        Raises:
            RunFolderError: There was no such agent.
            GitError: Its commits are gone.
        """
        name = agent if agent.split(".")[0] == "root" else f"root.{agent}"
        if AGENTS + name not in self.refs:
            agents = sorted(ref.removeprefix(AGENTS) for ref in self.refs if ref != START)
            raise RunFolderError(f"{self.folder} has kept nothing of an agent {agent}; it has {', '.join(agents)}")
        commit = self.refs[AGENTS + name]
        parent = name.rpartition(".")[0]
        if not parent:
            return Edits(name, self.refs[START], commit, self.objects)
        # It started from a commit of its parent, and both have gone on from there.
        ended = self.git.attempt("merge-base", commit, self.refs.get(AGENTS + parent, ""))
        if ended.code:
            raise GitError(f"{self.folder}/ctl.git does not say any more what {name} started from: {ended.err}")
        return Edits(name, ended.out.decode().strip(), commit, self.objects)


@contextmanager
def recorded(folder: Path) -> Iterator[Recorded]:
    """Open the commits of the run in a folder.

    Raises:
        RunFolderError: The run has kept none.
        GitError: They cannot be read.
    """
    ctl = folder.resolve() / "ctl.git"
    if ctl.is_symlink() or not ctl.is_dir():
        if (folder / "task.ipynb").exists():
            raise RunFolderError(f"{folder} is the run of a task, which changes no files")
        raise RunFolderError(f"{folder} has no ctl.git: what its agents changed was not kept, or was removed")
    repository.check(ctl)
    listed = git.controlled(ctl).run("for-each-ref", "--format=%(objectname) %(refname)", AGENTS)
    rows = (line.partition(" ") for line in listed.decode("utf-8", "surrogateescape").splitlines())
    refs = {name: oid for oid, _, name in rows}
    if START not in refs or AGENTS + "root" not in refs:
        raise RunFolderError(f"{ctl} holds no state of an agent: the run ended before there was one")
    algorithm = "sha256" if len(refs[START]) == 64 else "sha1"
    shallow = ctl / "shallow"
    with scratch() as place:
        repository.make(
            place / "git",
            algorithm,
            objects=ctl / "objects",
            shallow=shallow.read_bytes() if shallow.is_file() else None,
        )
        yield Recorded(git.controlled(place / "git"), algorithm, ctl / "objects", folder, refs)
