"""What a wheel brings along, and that what is built of the labextension is built from what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent


def test_what_is_built_of_the_labextension_is_up_to_date() -> None:
    """`make labextension` builds it anew; nothing else needs Node.js."""
    done = subprocess.run(["make", "--silent", "labextension-sources"], cwd=HERE, capture_output=True, text=True)
    assert (HERE / "labextension/built/sources.cksum").read_text() == done.stdout, done.stderr


def test_a_wheel_brings_kernels_the_extension_and_the_panel(tmp_path: Path) -> None:
    """Where there is nothing of ours but a wheel, both kernels answer, and JupyterLab has both extensions."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run(*pip, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", str(HERE))
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not any("node_modules" in name or name.endswith((".ts", ".tsx")) for name in archive.namelist())
    python = tmp_path / "environment/bin/python"
    _run(sys.executable, "-m", "venv", "--without-pip", "environment", cwd=tmp_path)
    _run(*pip, f"--python={python}", "install", "--no-deps", "--no-index", str(wheel))
    packages = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # What it depends on is found where it is already; our own package there is a link, which is not followed from here.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    alone = {
        "cwd": tmp_path,
        "env": {key: value for key, value in os.environ.items() if key != "PATH"} | {"PATH": str(python.parent)},
    }  # no Node.js either
    assert _run(str(python), "-c", "import rlm_nb; print(rlm_nb.__file__)", **alone).startswith(str(packages))
    said = _run(str(python), "-c", ANSWERS, **alone)
    assert "rlm: 42" in said
    assert "rlm-agent: %step" in said
    extensions = _run(str(python), "-m", "jupyterlab.labextensions", "list", **alone)
    assert re.search(r"rlm-nb v[\d.]+ .*enabled.*OK", extensions), extensions
    servers = _run(str(python), "-m", "jupyter_server.extension.serverextension", "list", **alone)
    assert re.search(r"rlm_nb.server .*OK", servers), servers


ANSWERS = """
from jupyter_client.manager import start_new_kernel

for name, cell in (("rlm", "print(6 * 7)"), ("rlm-agent", "%help")):
    manager, client = start_new_kernel(kernel_name=name)
    try:
        client.execute_interactive(
            cell,
            timeout=60,
            output_hook=lambda message: "text" in message["content"] and print(f"{name}:", message["content"]["text"]),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        client.context.destroy()
"""


def _run(*command: str, **options: Any) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout
