"""Things that must be out of reach: planted by the controller, tried from inside before anything else runs there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from rlm_nb.kernel.isolation.policy import Canaries, Network

_SECONDS = 0.5
"""What an answer of this very machine may take."""


@contextmanager
def planted(folder: Path, network: Network) -> Iterator[Canaries]:
    """Plant them in a folder that no kernel has any business in; they are gone after the block.

    Args:
        folder: An empty folder.
        network: Whether there may be connections; what is told by one is not tried then.
    """
    secret, path, name = folder / "secret", folder / "made", f"rlm-{os.urandom(8).hex()}"
    secret.write_text(os.urandom(16).hex())
    with ExitStack() as stack:
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "s"))
        hidden = stack.enter_context(socket.socket(socket.AF_UNIX))
        hidden.bind(f"\0{name}")
        listening = [unix, hidden]
        port = None
        if network != "host":
            tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listening.append(tcp)
            port = tcp.getsockname()[1]
        for one in listening:
            one.listen()  # nobody accepts: that a connection can be begun is enough to know
        yield Canaries(str(secret), str(path), str(folder / "s"), name, port)


def reached(canaries: Canaries | None) -> Iterator[str]:
    """Which of them can be reached from here, in words. Never raises: what cannot be done is as it should be."""
    if canaries is None:
        return
    attempts: list[tuple[str, Callable[[], None]]] = [
        (f"the file {canaries.secret}", partial(_read, canaries.secret)),
        (f"the folder {os.path.dirname(canaries.path)}, for writing", partial(_write, canaries.path)),  # noqa: PTH120
        (f"the socket {canaries.socket}", partial(_connect, socket.AF_UNIX, canaries.socket)),
        (
            "a socket of another process by its abstract name",
            partial(_connect, socket.AF_UNIX, f"\0{canaries.abstract}"),
        ),
    ]
    if canaries.port is not None:
        attempts.append((f"127.0.0.1:{canaries.port}", partial(_connect, socket.AF_INET, ("127.0.0.1", canaries.port))))
    for what, attempt in attempts:
        with suppress(OSError):
            attempt()
            yield what


def _read(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(family: int, address: str | tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(_SECONDS)
        one.connect(address)
