"""What a wheel brings along, and that what is built of the labextension is built from what is there."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent.parent


def test_what_is_built_of_the_labextension_is_up_to_date() -> None:
    """`make labextension` builds it anew; nothing else needs Node.js."""
    done = subprocess.run(["make", "--silent", "labextension-sources"], cwd=HERE, capture_output=True, text=True)
    assert (HERE / "labextension/built/sources.cksum").read_text() == done.stdout, done.stderr


def test_a_wheel_brings_kernels_the_extension_and_the_panel(tmp_path: Path) -> None:
    """In their places below the environment, so that an installation needs no further step and no Node.js."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, f"--wheel-dir={tmp_path}", str(HERE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name.partition(".data/data/")[2] for name in archive.namelist() if ".data/data/" in name]
        extension = json.loads(archive.read(next(n for n in archive.namelist() if n.endswith("rlm-nb/package.json"))))
        assert any(name.endswith("rlm_nb/server/handlers.py") for name in archive.namelist())
        assert not any("node_modules" in name or name.endswith((".ts", ".tsx")) for name in archive.namelist())
    assert {"share/jupyter/kernels/rlm/kernel.json", "share/jupyter/kernels/rlm-agent/kernel.json"} <= set(names)
    assert "share/jupyter/labextensions/rlm-nb/install.json" in names
    assert f"share/jupyter/labextensions/rlm-nb/{extension['jupyterlab']['_build']['load']}" in names
    assert "etc/jupyter/jupyter_server_config.d/rlm_nb.json" in names
