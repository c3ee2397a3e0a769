"""Other people's tools on what we record: nbdime finds what is other, jupytext loses nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from jupytext.cli import jupytext

DOCS = Path(__file__).parent.parent.parent / "docs" / "reviewing-a-run.md"

SCRIPT = {
    "root": [
        "I look.\n\n```python\nprint(sorted(p.name for p in Path().iterdir()))\nresult = rlm_query('Help me.')\n```",
        "```python\nFINAL(str(result))\n```",
    ],
    "root.1": ["```python\nFINAL('helped')\n```"],
}

CHANGING = r"\d{8}-\d{6}-[0-9a-f]{4}|[0-9a-f]{40}|\d+\.\d+s( \([^)]*\))?"
"""What is another in each run: its name, the commit of what it began with, and how long things took."""


@pytest.fixture(scope="module")
def recordings(clean_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The notebooks of two runs that did the same, one after the other."""
    here = tmp_path_factory.mktemp("twice")
    (here / "source").mkdir()
    (here / "source" / "a.py").write_text("x = 1\n")
    (here / "script.yaml").write_text(yaml.safe_dump({"agents": SCRIPT}), "utf-8")
    command = [sys.executable, "-m", "rlm_nb", "run", "source", "-p", "Say it.", "--model", "scripted:script.yaml"]
    for name in ("first", "second"):
        subprocess.run([*command, "--runs-dir", name], cwd=here, check=True, capture_output=True)
    (first,), (second,) = (list((here / name).glob("*/root.ipynb")) for name in ("first", "second"))
    return first, second


def differences(first: Path, second: Path, here: Path) -> list[dict[str, Any]]:
    """What nbdime finds, with the settings of the docs."""
    (settings,) = re.findall(r"```json\n(.+?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (here / "nbdime_config.json").write_text(settings)
    command = [Path(sysconfig.get_path("scripts")) / "nbdiff", "--out", "diff.json", first, second]
    subprocess.run(command, cwd=here, check=True)
    found: list[dict[str, Any]] = json.loads((here / "diff.json").read_text("utf-8"))
    return found


def test_two_recordings_of_the_same_differ_in_the_lines_that_tell_times(
    recordings: tuple[Path, Path], tmp_path: Path
) -> None:
    """No cell is new, none has another output, and of their texts only times and names are others."""
    notebooks = [nbformat.read(path, as_version=4) for path in recordings]
    changed = []
    for found in differences(*recordings, tmp_path):
        assert (found["op"], found["key"]) == ("patch", "cells")
        for cell in found["diff"]:
            assert (cell["op"], [part["key"] for part in cell["diff"]]) == ("patch", ["source"])
            changed.append(cell["key"])
    texts = [[re.sub(CHANGING, "…", notebook.cells[at].source) for at in changed] for notebook in notebooks]
    assert texts[0] == texts[1]


def test_what_is_other_is_all_that_nbdime_shows(recordings: tuple[Path, Path], tmp_path: Path) -> None:
    """Cells are known by their ids: another output, and a new cell above it, are two places and no more."""
    notebook = nbformat.read(recordings[0], as_version=4)
    at = [cell.id for cell in notebook.cells].index("it-001-code-1")
    notebook.cells[at].outputs[0].text = "['b.py']\n"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("Mine", id="mine"))
    nbformat.write(notebook, tmp_path / "other.ipynb")
    (cells,) = differences(recordings[0], tmp_path / "other.ipynb", tmp_path)
    assert [(one["op"], one["key"]) for one in cells["diff"]] == [("addrange", 1), ("patch", at)]
    assert [one["key"] for one in cells["diff"][1]["diff"]] == ["outputs"]


@pytest.mark.parametrize(("form", "name"), [("py:percent", "root.py"), ("md", "root.md")])
def test_jupytext_loses_nothing(
    form: str, name: str, recordings: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back again with the commands of the docs: the same ids, tags, texts and outputs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(recordings[0], tmp_path)
    before = nbformat.read(tmp_path / "root.ipynb", as_version=4)
    commands = re.findall(r"^jupytext (.+)$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        arguments = command.replace("py:percent", form).replace("root.py", name).split()
        assert jupytext(["--quiet", *arguments]) == 0
    after = nbformat.read(tmp_path / "root.ipynb", as_version=4)
    for part in ("id", "cell_type", "source", "outputs"):
        assert [cell.get(part) for cell in after.cells] == [cell.get(part) for cell in before.cells]
    assert [cell.metadata.tags for cell in after.cells] == [cell.metadata.tags for cell in before.cells]
    text = (tmp_path / name).read_text("utf-8")
    assert 'tags=["rlm-think"]' in text
    assert "usage" not in text
