"""What root's rights would hide: permissions that stop everybody else."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

NOBODY = 65534


def as_nobody(task: Callable[[], None]) -> None:
    """Run `task` in a process without root's rights, in a scratch folder of its own making; raise what it raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_without_rights, task).result()


def _without_rights(task: Callable[[], None]) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.environ["TMPDIR"] = "/tmp"
    task()
