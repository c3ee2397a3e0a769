"""The repository that the agents of a bench work on."""

from __future__ import annotations

from pathlib import Path

from rlm_nb.workspace import git

FILES = 20


def make(folder: Path, files: int = FILES) -> Path:
    """A repository with one commit of small files, in as many folders as a fifth of them."""
    for number in range(files):
        module = folder / f"package_{number // 5}" / f"module_{number}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(f"def answer():\n    return {number}\n" * 20, encoding="utf-8")
    repository = git.controlled(folder / ".git", work_tree=folder)
    repository.run("init", "--quiet")
    repository.run("add", "--all")
    who = ("-c", "user.name=Bench", "-c", "user.email=bench@localhost")
    repository.run(*who, "commit", "--quiet", "--message=A start")
    return folder
