"""How a person takes over what a run changed: the command to copy."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rlm_nb.errors import GitError
from rlm_nb.workspace import git


def instruction(origin: str, patch: Path) -> str:
    """`to have it: git -C … apply …`, to be typed anywhere, or `to have it in a clone: …` where there is no checkout.

    Never raises: what cannot be found out is left for the person to fill in.

    Args:
        origin: What the run worked on, as `Source.origin` has it.
        patch: An absolute path: the file with the run's edits.
    """
    file = shlex.quote(str(patch))
    if not Path(origin).is_absolute():
        return f"to have it in a clone: git apply {file}"
    try:
        users = git.of_user(Path(origin))
        inside = users.attempt("rev-parse", "--is-inside-work-tree")
        if inside.code:  # no repository: what was copied is what the patch is for
            return f"to have it: git -C {shlex.quote(origin)} apply {file}"
        if inside.out.strip() != b"true":
            return f"to have it in a clone: git apply {file}"
        # Git passes over what lies outside the folder that it is called in, without a word: it must be the top.
        top, place = (_line(users.attempt("rev-parse", option).out) for option in ("--show-toplevel", "--show-prefix"))
        copied = place and users.attempt("check-ignore", "--quiet", origin).code == 0
        below = f"--directory={shlex.quote(place)} " if copied else ""
        return f"to have it: git -C {shlex.quote(top)} apply {below}{file}"
    except (GitError, OSError):
        return f"to have it: git apply {file}"


def _line(printed: bytes) -> str:
    return os.fsdecode(printed.removesuffix(b"\n"))
