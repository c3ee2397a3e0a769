"""A controller with two confined kernels, one of them hostile: `python -m … LEVEL WARM NETWORK` prints what came."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation.checking import check
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import Bench, text

HERE = Path(__file__).parent
PLACES = ("/", "/usr", "/proc", "/tmp", "/dev/shm", "/dev/null", ".")
SECRET = "planted-0123456789"


def plant(stack: ExitStack, folder: Path, other: Path) -> dict[str, Any]:
    """Things that are none of a cell's business; see `attempts.py`."""
    home, record = folder / "home", folder / "record"
    for place in (home, record):
        place.mkdir()
    (home / "secret").write_text(SECRET)
    (record / "budget.json").write_text(SECRET)
    (record / "root.ipynb").write_text(SECRET)
    (other / "work/theirs").write_text(SECRET)
    shared = stack.enter_context(tempfile.NamedTemporaryFile(dir="/dev/shm"))  # noqa: SIM115
    libc = ctypes.CDLL(None)
    segment = libc.shmget(0, 4096, 0o600)  # IPC_PRIVATE: a new one
    stack.callback(libc.shmctl, segment, 0, None)  # IPC_RMID
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    addresses = {"unix": str(folder / "u"), "datagrams": str(folder / "d"), "abstract": f"rlm-test-{os.getpid()}"}
    for name, kind in (
        ("unix", socket.SOCK_STREAM),
        ("datagrams", socket.SOCK_DGRAM),
        ("abstract", socket.SOCK_STREAM),
    ):
        one = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        one.bind(f"\0{addresses[name]}" if name == "abstract" else addresses[name])
        if kind == socket.SOCK_STREAM:
            one.listen()
    bystander = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)", "bystander"], env={"KEY": SECRET}
    )
    stack.callback(bystander.wait)
    stack.callback(bystander.kill)
    python = folder / "python"  # what a user has installed beside the system's, and may change
    return addresses | {
        "secret": str(home / "secret"),
        "home": str(home),
        "record": str(record),
        "other": str(other),
        "shared": shared.name,
        "segment": segment,
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "controller": os.getpid(),
        "bystander": bystander.pid,
        "python": str(python / "module.py"),
    }


def main(level: str, warm: str, network: str) -> None:
    """Try everything, and print what came of it as JSON."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="c-", dir="/tmp")))
        (folder / "python").mkdir()
        (folder / "python/module.py").write_text("x = 1\n")
        settings = IsolationSettings.model_validate(
            {"level": level, "network": network, "read": [str(folder / "python")]}
        )
        launcher = stack.enter_context(Launcher(warm=warm == "warm", isolation=settings))
        for name in ("own", "other"):
            (folder / name).mkdir(mode=0o700)
        other = Bench(stack, launcher, folder / "other")
        planted = plant(stack, folder, folder / "other")
        own = Bench(stack, launcher, folder / "own", cell_timeout=60)
        process = own.client._session.process  # type: ignore[union-attr]

        def ran(code: str) -> str:
            result = own.run(code)
            assert result.status == "ok", (result.error, text(result.outputs, "stderr"))
            return text(result.outputs)

        def said(file: str, asked: str) -> dict[str, str]:
            code = f"PLANTED = {planted!r}\n{(HERE / file).read_text()}"
            return json.loads(ran(f"{code}\nimport json\nprint(json.dumps({asked}))"))  # type: ignore[no-any-return]

        (folder / "own/work/module").write_text("")
        report: dict[str, Any] = {
            "level": launcher.confinement().level,
            "landlock": launcher.confinement().landlock,
            "gaps": launcher.confinement().gaps,
            "work": said("work.py", "done(EVERYWHERE)"),
            "work in namespaces": said("work.py", "done(IN_NAMESPACES)"),
            "attempts": said("attempts.py", "tried(EVERYWHERE)"),
            "attempts in namespaces": said("attempts.py", "tried(IN_NAMESPACES)"),
            "command": ran("!echo from a command"),
            "forked": ran(
                "import multiprocessing\np = multiprocessing.Process(target=print, args=('from a child',))\n"
                "p.start(); p.join()"
            ),
            "added": ran(f"print(open({planted['python']!r}).read())"),
            "seen": psutil.Process(process.pid).cmdline() != [] and psutil.Process(process.pid).ppid() > 1,
            "mounts": json.loads(ran(f"import json\nprint(json.dumps({{p: os.statvfs(p).f_flag for p in {PLACES}}}))")),
            "network": said("attempts.py", "tried(OF_A_NETWORK)"),
            "answered": ran("print(budget()['left_usd'])"),
            "other is well": other.run("open('theirs').read()").status,
            "unharmed": {path.name: path.read_text() for path in (folder / "home").iterdir()} == {"secret": SECRET},
        }
        try:
            check(1, Policy(level="bwrap"))
        except IsolationError as error:
            report["the first process"] = str(error)
        began = time.monotonic()
        own.run("import subprocess\nsubprocess.Popen(['sleep', '300'], start_new_session=True)\nimport os\nos._exit(3)")
        report["again"] = ran("1\nprint('alive again')")
        report["seconds"] = time.monotonic() - began
        print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
