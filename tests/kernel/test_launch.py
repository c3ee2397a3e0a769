"""Real kernels that never become ready."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.bridge.server import Call
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings
from rlm_nb.errors import KernelStartError
from rlm_nb.kernel.launch import Launcher
from rlm_nb.kernel.session import Session


@pytest.mark.parametrize("last", ["hello", "ready"])
def test_death_while_starting(launcher: Launcher, tmp_path: Path, last: str) -> None:
    """A kernel that dies before or just after it has said that it is ready is not waited for."""
    pids: list[int] = []

    def answer(call: Call, cancel: Cancellation) -> Any:
        if call.name == "hello":
            pids.append(int(call.arguments["pid"]))
        if call.name == last:
            os.kill(pids[0], signal.SIGKILL)
        return {}

    began = time.monotonic()
    with closing(Session(launcher, tmp_path, tmp_path, answer, Cancellation(), KernelSettings())) as session:
        with pytest.raises(KernelStartError, match=r"ended while it was starting \(signal SIGKILL"):
            session.wait_until_ready(Cancellation())
    assert time.monotonic() - began < 20
