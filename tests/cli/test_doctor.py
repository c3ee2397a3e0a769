"""`rlm-nb doctor`: it tries what runs need, and tells no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KEY = "sk-ant-a-secret-that-is-shown-to-nobody"


def doctor(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlm_nb", "doctor", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=100
    )


def test_all_that_a_run_needs(tmp_path: Path) -> None:
    """Git, a kernel that answered, the model and its price, the disk; and that cells are not isolated."""
    done = doctor(tmp_path, "--json", ANTHROPIC_API_KEY=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert list(findings) == ["git", "kernel", "isolation", "model", "price", "disk"]
    assert "git version" in findings["git"]["said"]
    assert "answered its first cell" in findings["kernel"]["said"]
    assert findings["isolation"]["state"] == "warning"
    assert "ANTHROPIC_API_KEY" in findings["model"]["said"]
    assert "a million tokens read" in findings["price"]["said"]
    assert KEY not in done.stdout + done.stderr


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Without git, a key and a working kernel it says so in a line each, with the way out, and exits with 1."""
    (tmp_path / "config.yaml").write_text("kernel:\n  start: cold\n  start_timeout: 0.001\n")
    done = doctor(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    lines = dict(line.removeprefix("✗ ").split(": ", 1) for line in done.stdout.splitlines() if line.startswith("✗"))
    assert list(lines) == ["git", "kernel", "model"]
    assert "install it" in lines["git"]
    assert "not ready after 0.001 seconds" in lines["kernel"]
    assert "set ANTHROPIC_API_KEY" in lines["model"]


@pytest.mark.parametrize(("model", "word"), [("claude-of-nobody", "price"), ("scripted:gone.yaml", "model")])
def test_a_model_that_cannot_be_used(tmp_path: Path, model: str, word: str) -> None:
    """A price that nobody knows and a script that is not there keep runs from beginning."""
    done = doctor(tmp_path, "--model", model, ANTHROPIC_API_KEY=KEY)
    assert done.returncode == 1
    assert f"✗ {word}: " in done.stdout
