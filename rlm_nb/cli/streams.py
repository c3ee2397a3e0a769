"""The two ways out: what was asked for to standard output, everything said about it to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rlm_nb.notebook.wording import printable


def write(text: str, out: TextIO | None = None) -> None:
    """Write what was asked for, ended by a newline: harmless on a terminal, exactly as it is anywhere else.

    A reader that has gone away (`| head`) is no error.

    Args:
        text: What was asked for.
        out: Standard output, where it was put aside.

    Raises:
        OSError: It cannot be written; a full disk, for one.
    """
    out = out or sys.stdout
    if out.isatty():
        text = printable(text)
    if not text.endswith("\n"):
        text += "\n"
    write_bytes(text.encode(out.encoding, "backslashreplace"), out)


def write_bytes(data: bytes, out: TextIO | None = None) -> None:
    """Write what was asked for, to the byte: for streams that are no terminal. Otherwise like `write`."""
    out = out or sys.stdout
    try:
        out.buffer.write(data)
        out.buffer.flush()
    except BrokenPipeError:
        _give_up(out)
    except OSError:
        _give_up(out)
        raise


def write_file(text: str, path: Path) -> None:
    """Write what was asked for into a file instead. Raises `OSError`, for a pipe that nobody reads as well."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)  # not to wait for a reader
    os.set_blocking(file, True)
    with open(file, "w", encoding="utf-8", errors="backslashreplace") as out:  # noqa: PTH123
        out.write(text)


@contextmanager
def stdout_put_aside() -> Iterator[TextIO]:
    """Standard output for `write` alone: from here on, what anything else in this process prints goes to stderr.

    It stays so after the block: a thread that was left, or the children of a task, may print until the process exits.
    """
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # it was closed from the start, and is a stand-in of ours
        yield sys.stdout
        return
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        with open(os.devnull, "wb") as null:  # noqa: PTH123
            os.dup2(null.fileno(), 1)
    with open(kept, "w", encoding=sys.stdout.encoding) as out:  # noqa: PTH123
        yield out


def tell(text: str) -> None:
    """Say something about it, without control characters; when nobody reads it, the exit code still tells."""
    try:
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        _give_up(sys.stderr)
    except ValueError:  # a task has closed it; the system's own stderr may be there
        with suppress(OSError):
            os.write(2, f"{printable(text)}\n".encode("utf-8", "backslashreplace"))


def _give_up(stream: TextIO) -> None:
    """Let go of a stream that cannot be written: Python would try what is left again when it exits, and complain."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
