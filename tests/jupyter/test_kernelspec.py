"""`rlm-nb kernelspec`: where a Jupyter of another environment finds the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from tests.jupyter.conftest import started, write_script
from tests.whole_runs.conftest import cell


def _command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"JUPYTER_DATA_DIR": str(home), "JUPYTER_PREFER_ENV_PATH": "0"}
    command = [sys.executable, "-m", "rlm_nb", "kernelspec", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_installed_listed_and_removed(repository: Path, tmp_path: Path, monkeypatch) -> None:
    """What is installed names this Python, and starts; what is not there cannot be removed."""
    home = tmp_path / "jupyter"
    done = _command("install", "--user", home=home)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == home / "kernels/rlm-agent"
    spec = json.loads((home / "kernels/rlm-agent/kernel.json").read_text("utf-8"))
    assert spec["argv"][0] == sys.executable
    assert spec["display_name"] == "RLM agent"
    assert f"rlm-agent  {home / 'kernels/rlm-agent'}" in _command("list", home=home).stdout
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert KernelSpecManager().get_kernel_spec("rlm-agent").argv[0] == sys.executable
    model = write_script(tmp_path / "script.yaml", {"root": [cell("FINAL('from there')")]})
    with started("rlm-agent", repository, RLM_RUNS_DIR=str(tmp_path / "runs"), RLM_MODEL_NAME=model) as kernel:
        assert "from there" in kernel.run("Begin.").text
    assert _command("remove", home=home).returncode == 0
    again = _command("remove", "--user", home=home)
    assert (again.returncode, "rlm-nb kernelspec list" in again.stderr) == (2, True)
    both = _command("install", "--user", "--sys-prefix", home=home)
    assert (both.returncode, "choose one" in both.stderr) == (2, True)
