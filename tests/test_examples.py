"""The notebooks among the examples run from top to bottom, without a key."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"

SHOWN = {
    "embed": ["completed", "has bought most", "['totals.txt']", "Cleo: ", "came out as before"],
    "review": ["completed", "root.3.1", "Exit status 1", "+++ b/", "report/index.html"],
    "step": ["I look around first", "[True]", "again iteration 2", "completed"],
}
"""What each prints, among other things."""


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.ipynb"))])
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    """In a copy of the examples, as one who has cloned the repository runs it; it is stored without outputs."""
    here = tmp_path / "examples"
    shutil.copytree(EXAMPLES, here, ignore=shutil.ignore_patterns("__pycache__", "runs", ".pytest_cache"))
    notebook = nbformat.read(here / f"{name}.ipynb", as_version=4)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
    NotebookClient(notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(here)}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    for text in SHOWN[name]:
        assert text in printed, printed
