"""`rlm-nb report` for agents and tasks, and nbconvert with our exporter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Command

SCRIPT = """
prompts: [{pattern: ., reply: info}]
agents:
  root: ["```python\\nFINAL('done')\\n```"]
"""


def test_the_report_of_a_run_and_of_a_task(rlm_nb: Command, repository: Path, tmp_path: Path) -> None:
    """The path of the first page is all that stdout gets; it is in the run's folder unless one is named."""
    (tmp_path / "script.yaml").write_text(SCRIPT)
    (tmp_path / "server.log").write_text("An error: <script>window.ran = 1</script>\n")
    model, runs = f"scripted:{tmp_path / 'script.yaml'}", tmp_path / "runs"
    ran = rlm_nb("run", repository, "-p", "Say it.", "--model", model, "--runs-dir", runs)
    assert ran.returncode == 0, ran.stderr
    done = rlm_nb("report", "--runs-dir", runs)
    assert (done.returncode, done.stderr) == (0, "")
    index = Path(done.stdout.strip())
    assert index.parent.name == "report"
    assert 'href="root.html"' in index.read_text("utf-8")
    command = [sys.executable, "-m", "nbconvert", "--log-level=WARN", "--to", "rlm", "--stdout"]
    page = subprocess.run([*command, index.parent.parent / "root.ipynb"], capture_output=True, text=True, check=True)
    assert (page.stderr, "Content-Security-Policy" in page.stdout) == ("", True)
    ran = rlm_nb(
        "task", tmp_path / "server.log", "--task", "find_errors_in_log", "--model", model, RLM_RUNS_DIR=str(runs)
    )
    assert ran.returncode == 0, ran.stderr
    done = rlm_nb("report", "-o", tmp_path / "out", "--runs-dir", runs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'out' / 'index.html'}\n"
    first, task = ((tmp_path / "out" / f"{name}.html").read_text("utf-8") for name in ("index", "task"))
    assert 'href="task.html"' in first
    assert "<h2>Result</h2>" in first
    assert "semantic_subcall" in task
    assert "<script" not in first + task
