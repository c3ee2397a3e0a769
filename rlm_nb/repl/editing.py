"""`edit_file`: one replacement in one file of the worktree, or an error that says how to do better."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def edit_file(path: str | os.PathLike[str], old: str, new: str, *, workdir: Path, replace_all: bool = False) -> str:
    """Replace `old` by `new` in the file at `path`, relative to `workdir`; returns one sentence on what changed.

    Raises:
        PermissionError: The path leads out of the worktree.
        FileNotFoundError: There is no such file (an empty `old` makes a new one).
        FileExistsError: `old` is empty and the file has text.
        ValueError: `old` is missing or not unique.
    """
    target = _inside(path, workdir)
    shown = target.relative_to(workdir.resolve())
    if old == "":
        return _create(target, shown, new)
    if not target.is_file():
        raise FileNotFoundError(f"there is no file {str(shown)!r}; to make one, pass old=''")
    before = _read(target, shown)
    # Texts that a model writes have \n; the file may have \r\n, which must survive.
    newline = "\r\n" if "\r\n" in before and "\n" not in before.replace("\r\n", "") else "\n"
    old, new = (text.replace("\r\n", "\n").replace("\n", newline) for text in (old, new))
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
    if ".git" in target.relative_to(root).parts:
        raise PermissionError(f"{os.fspath(path)!r} belongs to git; use git commands")
    return target


def _create(target: Path, shown: Path, text: str) -> str:
    if target.exists() and (not target.is_file() or target.stat().st_size):
        raise FileExistsError(f"{str(shown)!r} exists; say in `old` which text to replace")
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, text)
    return f"{shown}: created"


def _read(target: Path, shown: Path) -> str:
    try:
        return target.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{shown}: not UTF-8 text; edit it with Python's own open()") from None


def _write(target: Path, text: str) -> None:
    """Write beside and replace, keeping the mode: an interrupt leaves the old file or the new one."""
    mode = target.stat().st_mode & 0o7777 if target.exists() else None
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
        os.chmod(temporary, mode if mode is not None else 0o666 & ~_umask())  # noqa: PTH101
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
