"""Controllers at each level: what they say that their kernels could do, and where there can be none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from rlm_nb.kernel.isolation import landlock
from tests.kernel.isolation import people

USERS = ["root", "nobody"] if os.getuid() == 0 else ["me"]

Report = dict[str, Any]


def report(user: str, *how: str, **more: Any) -> Report:
    """What a controller of this user's says that its kernels could do."""
    done = people.run(user, "tests.kernel.isolation.controller", *how, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def done(attempts: dict[str, str]) -> set[str]:
    return {name for name, came in attempts.items() if came.startswith("done")}


def undone(works: dict[str, str]) -> dict[str, str]:
    return {name: came for name, came in works.items() if came != "done"}


def need(level: str) -> None:
    """Skip where the machine cannot hold a level, as others than we find out: what we say of it is what is tested."""
    if level == "landlock":
        if not landlock.exists():
            pytest.skip("this system has no Landlock, or has it switched off")
        return
    if level == "bwrap":
        made = ("--unshare-all", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/usr", "/usr")
        links = [option for lib in ("lib", "lib64") for option in ("--symlink", f"usr/{lib}", f"/{lib}")]
        if shutil.which("bwrap") is None:
            pytest.skip("bubblewrap is not installed")
        if subprocess.run(["bwrap", *made, *links, "/usr/bin/true"], capture_output=True).returncode:
            pytest.skip("bubblewrap may not make namespaces, or a /proc in them, here")
        return
    everything = ("--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "--mount-proc")
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", *everything, "true"], capture_output=True).returncode
    ):
        pytest.skip("user namespaces, or a /proc in them, may not be made here")
