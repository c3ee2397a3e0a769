"""The pages of runs that went well, that are damaged, and that nobody should follow."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_nb.errors import NotebookError, RunFolderError
from rlm_nb.report.site import report
from tests.notebook.scenes import Chance, opened

PATCH = "diff --git a/a <b>.py b/a <b>.py\n--- a/a <b>.py\n+++ b/a <b>.py\n@@ -1 +1,2 @@\n-x\n+<script>\n+z\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two agents, with a patch and a long output."""
    folder = tmp_path / "runs" / "20260101-120000-aaaa"
    (folder / "outputs").mkdir(parents=True)
    (folder / "outputs" / "root-cell-1.txt").write_text("all of it\x1b[2J")
    (folder / "changes.patch").write_text(PATCH)
    for agent in ("root.1", "root"):
        path = folder / f"{agent}.ipynb"
        with opened(path) as recorder:
            for event in Chance(7).iteration(1, folder, agent):
                recorder.listen(event)
            result = Chance(1).result(path, agent)
            recorder.finish(replace(result, started=time.time(), ended=time.time() + 2))
    state = {"version": 1, "id": folder.name, "task": "Say <hello>\nall", "status": "completed", "started": 1e9}
    state |= {"ended": 1e9 + 75, "total_cost": 0.25, "children": [{"children": []}], "pid": 1, "pid_started": 1}
    state |= {"pid_world": "w", "repository": "/r", "commit": "c", "model": "m", "stop_reason": "done"}
    (folder / "run.json").write_text(json.dumps(state))
    return folder


def test_the_first_page_tells_the_whole(run: Path, tmp_path: Path) -> None:
    """The task, how it ended, the tree, the timeline, the cost of each agent and depth, the edits in colours."""
    written = report(run, tmp_path / "out")
    assert written.faults == ()
    assert {page.name for page in written.pages} == {"index.html", "root.html", "root.1.html"}
    page = written.index.read_text("utf-8")
    assert "<h1>Say &lt;hello&gt;</h1>" in page
    assert '<b class="completed">completed</b> · 1m15s · $0.25 · 2 agents' in page
    assert '<td class="depth1"><a href="root.1.html">root.1</a></td>' in page
    assert "data:image/svg+xml;base64," in page
    assert '<td class="n">0</td><td class="n">1</td><td class="n">1</td>' in page
    assert 'a &lt;b&gt;.py <span class="added">+2</span> <span class="removed">−1</span>' in page
    assert '<span class="gi">+&lt;script&gt;</span>' in page
    assert (written.index.parent / "outputs" / "root-cell-1.txt").read_text() == "all of it"


def test_what_is_damaged_or_leads_elsewhere_is_named(run: Path, tmp_path: Path) -> None:
    """Links are not followed, pipes not waited for; the rest of the run is shown."""
    (tmp_path / "secret").write_text("s3cret")
    (run / "root.1.ipynb").unlink()
    (run / "root.1.ipynb").symlink_to(run / "root.ipynb")
    (run / "root.2.ipynb").write_text("{}")
    os.mkfifo(run / "root.3.ipynb")
    (run / "changes.patch").unlink()
    (run / "changes.patch").symlink_to(tmp_path / "secret")
    (run / "outputs" / "root-cell-2.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(run / "outputs" / "root-cell-3.txt")
    (run / "outputs" / "<img>.txt").write_text("x")
    (run / "run.json").write_text('{"task": ["<b>"], "children": 3}')
    written = report(run, tmp_path / "out")
    names = [
        "run.json",
        "root.1.ipynb",
        "root.2.ipynb",
        "root.3.ipynb",
        "changes.patch",
        "root-cell-2.txt",
        "root-cell-3.txt",
    ]
    for name in names:
        assert sum(name in fault for fault in written.faults) == 1, name
    page = written.index.read_text("utf-8")
    assert page.count('<p class="fault">') == len(written.faults) == len(names)
    assert [path.name for path in written.pages] == ["index.html", "root.html"]
    everything = "".join(path.read_text("utf-8") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "s3cret" not in everything


def test_a_folder_with_something_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    """A report may be written over a report, and over nothing else."""
    into = tmp_path / "out"
    report(run, into)
    report(run, into)
    into.joinpath("index.html").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty, and not a report; name another folder with -o"):
        report(run, into)
    assert into.joinpath("index.html").read_text() == "mine"
    (run / "report").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="is a link, which is not followed"):
        report(run, run / "report")
    report(run, tmp_path / "linked")
    (tmp_path / "linked" / "outputs" / "root-cell-1.txt").unlink()
    (tmp_path / "linked" / "outputs").rmdir()
    (tmp_path / "linked" / "outputs").symlink_to(tmp_path)
    with pytest.raises(RunFolderError, match="outputs: is a link, which is not followed"):
        report(run, tmp_path / "linked")
    with pytest.raises(NotebookError, match="there is no run here"):
        report(tmp_path / "runs", tmp_path / "nothing")


def test_a_report_without_matplotlib_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is there."""
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    page = report(run, tmp_path / "out").index.read_text("utf-8")
    assert '<p class="note">There is no timeline: it cannot be drawn: ' in page
    assert "root.1.html" in page
