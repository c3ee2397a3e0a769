"""bubblewrap where it is missing, fails, or has rights that its user lacks; the tests of each level see to the rest."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation import bubblewrap
from rlm_nb.kernel.isolation.choice import Isolation
from tests.kernel.isolation.levels import done, need, report, undone


def test_a_bubblewrap_that_is_not_there_or_fails_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it hears what to install, or what it says itself; less than `min_level` it is not."""
    settings = IsolationSettings(level="bwrap", min_level="ns")
    monkeypatch.setenv("PATH", str(tmp_path))
    with Isolation(settings) as isolation, pytest.raises(IsolationError, match="install the package `bubblewrap`"):
        isolation.choice()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bwrap: No permissions to create new namespace >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    with Isolation(settings) as isolation, pytest.raises(IsolationError, match="No permissions to create new namesp"):
        isolation.choice()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a program set-user-id root")
def test_a_bubblewrap_that_is_set_user_id_root(clean_environment: Path) -> None:
    """Where only root may make namespaces, such a program does it for others, and kernels are confined as elsewhere."""
    need("bwrap")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        if os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip("/tmp is mounted such that no program in it is set-user-id")
        Path(folder).chmod(0o755)
        program = Path(shutil.copy(str(shutil.which("bwrap")), folder))
        program.chmod(0o4755)
        found = report(
            "nobody", "bwrap", "cold", "loopback", env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        )
    assert done(found["attempts"] | found["attempts in namespaces"]) == {"send by UDP"}  # to nobody
    assert undone(found["work"] | found["work in namespaces"]) == {}
    assert done(found["network"]) == {"talk to itself"}
    assert any("set-user-id" in gap for gap in found["gaps"])


@pytest.mark.parametrize("place", [".", ""])
def test_a_bubblewrap_of_the_current_folder_is_not_run(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be a repository's, and would run with all rights."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{place}:{tmp_path}/none")
    assert bubblewrap.find() == ""
