"""The two ways out: what was asked for to standard output, everything said about it to standard error."""

from __future__ import annotations

import sys
from contextlib import suppress

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
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "backslashreplace"))
        sys.stdout.buffer.flush()


def tell(text: str) -> None:
    """Say something about it, without control characters; when nobody reads it, the exit code still tells."""
    with suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201
