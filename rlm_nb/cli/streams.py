"""The two ways out: what was asked for to standard output, everything said about it to standard error."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from rlm_nb.notebook.wording import printable


def write(text: str) -> None:
    """Write what was asked for, ended by a newline: harmless on a terminal, exactly as it is anywhere else.

    A reader that has gone away (`| head`) is no error.

    Raises:
        OSError: It cannot be written; a full disk, for one.
    """
    if sys.stdout.isatty():
        text = printable(text)
    if not text.endswith("\n"):
        text += "\n"
    write_bytes(text.encode(sys.stdout.encoding, "backslashreplace"))


def write_bytes(data: bytes) -> None:
    """Write what was asked for, to the byte: for streams that are no terminal. Otherwise like `write`."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError:
        _give_up(sys.stdout)
        raise


def tell(text: str) -> None:
    """Say something about it, without control characters; when nobody reads it, the exit code still tells."""
    try:
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Let go of a stream that cannot be written: Python would try what is left again when it exits, and complain."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
