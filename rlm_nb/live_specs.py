"""The kernelspecs of agents at work: what Jupyter offers as long as an agent has a kernel to be attached to.

They lie where a user's kernelspecs do, in his Jupyter data folder (`JUPYTER_DATA_DIR`), and say whose they are: those
of a process that was killed are removed by the next one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlm_nb.notebook.names import AGENT
from rlm_nb.processes import is_alive, this_process, world
from rlm_nb.run_folder import write_json

log = logging.getLogger(__name__)

PREFIX = "rlm-live-"
PROVISIONER = "rlm-live"

TRIES = 100
"""Names that are tried; two runs of one name in two folders are rare."""

LARGEST = 100_000
"""Bytes of a kernel.json."""


_there: set[Path] = set()


@contextmanager
def offered(run: Path, agent: str) -> Iterator[str | None]:
    """While the block runs, Jupyter offers this agent's kernel; gives the name of the kernelspec.

    It is `None` where it cannot be written: `rlm-nb attach` works all the same.
    """
    folder = None
    with suppress(OSError):
        folder = _folder(_name(run, agent))
    if folder is None:
        log.warning("the kernel of %s is not offered to Jupyter: %s cannot be written", agent, _place())
        yield None
        return
    try:
        pid, started = this_process()
        owner: dict[str, Any] = {"pid": pid, "pid_started": started, "pid_world": world()}
        with suppress(OSError):
            write_json(folder / "kernel.json", _spec(run, agent, owner))
        _there.add(folder)
        yield folder.name
    finally:
        _remove(folder)
        _there.discard(folder)


def remove_all() -> None:
    """Remove every kernelspec of this process that is still there: for an exit that unwinds nothing."""
    for folder in tuple(_there):
        _remove(folder)


def name_of(run: Path, agent: str) -> str | None:
    """The kernelspec that is offered for an agent; `None` for none."""
    for path in _place().glob(f"{_name(run, agent)}*/kernel.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            rlm = json.loads(path.read_text("utf-8"))["metadata"]["rlm"]
            if (rlm["run"], rlm["agent"]) == (str(run), agent):
                return path.parent.name
    return None


def title(run: Path, agent: str) -> str:
    """How it is called where people choose a kernel."""
    return f"{agent}, at work in {run.name}"


def abandoned() -> list[Path]:
    """The folders of kernelspecs whose process is gone: by number and start, never by age."""
    return sorted(folder for folder in _place().glob(f"{PREFIX}*") if _is_abandoned(folder))


def remove_abandoned() -> None:
    """Remove them."""
    for folder in abandoned():
        _remove(folder)


def _spec(run: Path, agent: str, owner: dict[str, Any]) -> dict[str, Any]:
    return {
        "argv": ["rlm-nb", "attach", f"{run}:{agent}"],  # what starts is the provisioner's business
        "display_name": title(run, agent),
        "language": "python",
        # By a message an interrupt would come past the provisioner, which knows those that only go before a shutdown.
        "interrupt_mode": "signal",
        "metadata": {
            "kernel_provisioner": {"provisioner_name": PROVISIONER},
            "rlm": {"run": str(run), "agent": agent, **owner},
        },
    }


def _place() -> Path:
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir(), "kernels")


def _folder(name: str) -> Path | None:
    """A new folder of this name, or one like it. Raises `OSError`."""
    place = _place()
    place.mkdir(parents=True, exist_ok=True)
    for more in ("", *(f"-{number}" for number in range(2, TRIES))):
        folder = place / f"{name}{more}"
        for _ in range(2):  # once more, when what stood there was abandoned
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                return folder
            if not _is_abandoned(folder):
                break
            _remove(folder)
    return None


def _name(run: Path, agent: str) -> str:
    """As much of the run's name as the name of a kernelspec may hold, and the agent's."""
    return f"{PREFIX}{re.sub(r'[^a-z0-9._-]', '-', run.name.lower())[:100]}-{agent}"


def _is_abandoned(folder: Path) -> bool:
    """Whether it says that it is of a process that is gone, and that we would know if it was not."""
    try:
        path = folder / "kernel.json"
        if folder.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return False
        rlm = json.loads(path.read_text("utf-8"))["metadata"]["rlm"]
        if rlm["pid_world"] != world() or not AGENT.fullmatch(rlm["agent"]):
            return False
        return not is_alive(int(rlm["pid"]), float(rlm["pid_started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _remove(folder: Path) -> None:
    """What we put there, and nothing else."""
    with suppress(OSError):
        for name in ("kernel.json", ".kernel.json.new"):
            (folder / name).unlink(missing_ok=True)
        os.rmdir(folder)  # noqa: PTH106
