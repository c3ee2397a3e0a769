"""`edit_file`: one replacement in one file of the worktree, or an error that says how to do better."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def edit_file(path: str | os.PathLike[str], old: str, new: str, *, workdir: Path, replace_all: bool = False) -> str:
    """Replace `old` by `new` in the file at `path`, relative to `workdir`; returns one sentence on what changed.

    Raises:
        PermissionError: The path leads out of the worktree.
        FileNotFoundError: There is no such file (an empty `old` makes a new one).
        FileExistsError: `old` is empty and the file has text.
        ValueError: `old` is missing or not unique, or what is at `path` is no text file.
    """
    target = _inside(path, workdir)
    shown = target.relative_to(workdir.resolve())
    if target.exists() and not target.is_file():
        raise ValueError(f"{str(shown)!r} is not a file")
    if old == "":
        return _create(target, shown, new)
    if not target.exists():
        raise FileNotFoundError(f"there is no file {str(shown)!r}; to make one, pass old=''")
    before = _read(target, shown)
    old, new = (_with_newlines_of(before, text) for text in (old, new))
    count = before.count(old)
    if count == 0:
        raise ValueError(f"{shown}: the text to replace is not in the file; read it again, and copy it exactly")
    if count > 1 and not replace_all:
        raise ValueError(
            f"{shown}: the text to replace is there {count} times; add lines around it, or replace_all=True"
        )
    if old == new:
        raise ValueError(f"{shown}: old and new are the same")
    _write(target, before.replace(old, new))
    return f"{shown}: replaced {count} occurrence{'s' if count > 1 else ''}"


def _inside(path: str | os.PathLike[str], workdir: Path) -> Path:
    """The real place of `path`, which must lie in the worktree after every link and `..` is followed."""
    target = (workdir / path).resolve()
    root = workdir.resolve()
    if not target.is_relative_to(root) or target == root:
        raise PermissionError(f"{os.fspath(path)!r} is outside the worktree; edit_file stays inside it")
    # Some file systems do not tell .GIT from .git.
    if any(part.lower() == ".git" for part in target.relative_to(root).parts):
        raise PermissionError(f"{os.fspath(path)!r} belongs to git; use git commands")
    return target


def _create(target: Path, shown: Path, text: str) -> str:
    if target.exists() and target.stat().st_size:
        raise FileExistsError(f"{str(shown)!r} exists; say in `old` which text to replace")
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, text)
    return f"{shown}: created"


def _read(target: Path, shown: Path) -> str:
    try:
        return target.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{shown}: not UTF-8 text; edit it with Python's own open()") from None


def _with_newlines_of(file: str, text: str) -> str:
    """The text with the file's line ends: a model writes `\\n`, and `\\r\\n` must survive. Mixed ones stay."""
    unix, windows = file.replace("\r\n", "").count("\n"), file.count("\r\n")
    if unix and windows:
        return text
    return text.replace("\r\n", "\n").replace("\n", "\r\n" if windows else "\n")


def _write(target: Path, text: str) -> None:
    """Write beside and replace, keeping the mode: an interrupt leaves the old file or the new one."""
    beside = target.with_name(f".{secrets.token_hex(8)}.new")
    try:
        with beside.open("xb") as file:
            file.write(text.encode("utf-8"))
        if target.exists():
            beside.chmod(stat.S_IMODE(target.stat().st_mode))
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
