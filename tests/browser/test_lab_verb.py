"""`rlm-nb lab`, as a person starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import Seen
from tests.browser.lab import PATIENCE, Lab, listening, stop
from tests.whole_runs.conftest import Shell, cell


def test_jupyterlab_opens_with_the_run(tmp_path: Path, repository: Path, seen: Seen) -> None:
    """In the folder of the runs; it says so when there is no such run."""
    shell = Shell(tmp_path)
    ended = shell.run(repository, "--model", shell.script({"root": [cell("FINAL('It is done.')")]}))
    assert ended.code == 0
    rlm_nb, runtime = [sys.executable, "-m", "rlm_nb", "lab"], tmp_path / "runtime"
    refused = subprocess.run([*rlm_nb, "nowhere"], cwd=shell.here, capture_output=True, text=True)
    assert (refused.returncode, "no run" in refused.stderr) == (1, True)
    options = ["--no-browser", "--", "--allow-root", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"]
    options += ["--ServerApp.jpserver_extensions={'jupyter_lsp': False}"]  # which is slow to end
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*rlm_nb, "last", *options],
            cwd=shell.here,
            env=os.environ | {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_PREFER_ENV_PATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        told = listening(server, runtime, tmp_path / "log")
        assert Path(told["root_dir"]) == shell.here
        seen.page.goto(f"{told['url']}?token={told['token']}")
        tab = seen.page.locator(".lm-DockPanel .lm-TabBar-tab", has_text="root.ipynb")
        expect(tab).to_be_visible(timeout=1000 * PATIENCE)
        expect(seen.page.get_by_text("It is done.").last).to_be_attached(timeout=1000 * PATIENCE)
        expect(seen.page.locator(".jp-BreadCrumbs")).to_contain_text(ended.run.name)
        idle = seen.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        expect(idle.first).to_be_attached(timeout=1000 * PATIENCE)
        seen.page.goto("about:blank")  # or it asks for a new kernel
        Lab(told["url"], told["token"], shell.here).shut_down_kernels()
    finally:
        stop(server)
