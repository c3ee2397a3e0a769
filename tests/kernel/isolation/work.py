"""Common work, done by a cell: this file is what the cell runs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any


def sh(*command: str, **more: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git() -> None:
    sh("git", "init", "-q")
    Path("one.py").write_text("x = 1\n")
    sh("git", "add", "one.py")
    sh("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "One")
    assert "One" in sh("git", "log", "--oneline")
    assert sh("git", "status", "--porcelain", "one.py") == ""


def pytest() -> None:
    Path("test_one.py").write_text("from one import x\n\ndef test_one(tmp_path): assert x == 1\n")
    assert "1 passed" in sh(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_one.py")


def several_processes() -> None:
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    queue: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=queue.put, args=("put",))
    process.start()
    assert queue.get(timeout=20) == "put"
    process.join()


def compiler() -> None:
    if shutil.which("gcc"):
        Path("one.c").write_text('#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n')
        sh("gcc", "one.c", "-o", "one")
        assert sh("./one") == "compiled\n"


def environment() -> None:
    sh(sys.executable, "-m", "venv", "--without-pip", "env")
    assert sh("env/bin/python", "-c", "import sys; print(sys.prefix)").strip() == str(Path("env").resolve())


def files() -> None:
    for place in (tempfile.gettempdir(), os.environ["HOME"], "/dev/shm", "."):
        with tempfile.NamedTemporaryFile(dir=place) as file:
            file.write(b"x" * 100_000)
    assert sqlite3.connect("one.db").execute("select 1").fetchone() == (1,)


def tasks() -> None:
    async def echo() -> bytes:
        process = await asyncio.create_subprocess_exec("echo", "heard", stdout=subprocess.PIPE)
        return (await process.communicate())[0]

    came: list[bytes] = []
    thread = threading.Thread(target=lambda: came.append(asyncio.run(echo())))
    thread.start()
    thread.join()
    assert came == [b"heard\n"]


def pairs() -> None:
    one, other = socket.socketpair()
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    one.close()
    other.close()


def shell() -> None:
    assert sh("sh", "-c", "ls /usr/bin | head -n 1; id -u; uname; date; cat /proc/cpuinfo | grep -c processor")


def later_imports() -> None:
    import ctypes.util
    import zoneinfo

    import rlm_nb.context_access

    assert all((rlm_nb.context_access, ctypes.util, zoneinfo.ZoneInfo))


EVERYWHERE = (git, pytest, several_processes, compiler, environment, files, tasks, pairs, shell, later_imports)


def manager() -> None:
    with multiprocessing.Manager() as one:
        assert one.dict(x=1)["x"] == 1


def terminals() -> None:
    for end in os.openpty():
        os.close(end)


IN_NAMESPACES = (manager, terminals)


def done(works: Any) -> dict[str, str]:
    came = {}
    for work in works:
        try:
            work()
            came[work.__name__] = "done"
        except BaseException as error:  # noqa: BLE001 - a report
            came[work.__name__] = f"{type(error).__name__}: {error}"
    return came
