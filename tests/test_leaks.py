"""The fixture that watches over every test notices what it is there for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

LEAKY = """
import subprocess, tempfile, threading

release = threading.Event()

def test_leaky(tmp_path):
    subprocess.Popen(["sleep", "601"])
    subprocess.run(["setsid", "sh", "-c", "sleep 602 >/dev/null 2>&1 &"], cwd=tmp_path, env={"PATH": "/bin:/usr/bin"})
    threading.Thread(target=release.wait, name="forgotten").start()
    tempfile.mkdtemp(prefix="rlm-")

def test_tidy(tmp_path):
    release.set()
    subprocess.run(["true"], check=True)
"""


def test_what_a_test_leaves_behind_fails_it(tmp_path: Path) -> None:
    """A child, a daemon that left the family, a thread and a folder are named; the next test is not blamed."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_leaky.py").write_text(LEAKY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR test_leaky.py::test_leaky" in done.stdout
    for trace in ("sleep 601", "sleep 602", "thread forgotten", "/rlm-"):
        assert trace in done.stdout
