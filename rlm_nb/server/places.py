"""Which paths the panel may name: those below the server's root, which its file browser shows as well."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tornado.web import HTTPError


def below(root: Path, path: object, *, hidden: bool = False) -> Path:
    """What a path means, all links followed; it need not be there.

    Args:
        root: The server's root, all links followed.
        path: As the panel names it: relative to the root.
        hidden: Whether what begins with a dot may be named.

    Raises:
        HTTPError: It is none (400), leads out of the root (403), or is hidden (404).
    """
    if not isinstance(path, str) or "\0" in path:
        raise HTTPError(400, "a path is wanted")
    named = PurePosixPath(path)
    if named.is_absolute() or ".." in named.parts:
        raise HTTPError(403, "a path below the server's root is wanted")
    try:
        found = (root / named).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, or no text
        raise HTTPError(404, "there is no such place") from None
    if not found.is_relative_to(root):
        raise HTTPError(403, "this leads out of the server's root")
    if not hidden and any(part.startswith(".") for part in (*named.parts, *found.relative_to(root).parts)):
        raise HTTPError(404, "there is no such place")
    return found
