"""Whole runs whose cells are confined, and one whose are not: what they can do, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation.choice import Isolation
from rlm_nb.notebook.reader import read
from tests.whole_runs.conftest import HELLO, Shell, cell, check_record

PARENT = (
    cell(
        "from pathlib import Path",
        "found = {}",
        "def tried(name, attempt):",
        "    try: attempt(); found[name] = 'done'",
        "    except OSError as error: found[name] = type(error).__name__",
        "tried('home', lambda: Path(SECRET).read_text())",
        "tried('checkout', lambda: Path(CHECKOUT, 'README.md').read_text())",
        "tried('run', lambda: Path(RUNS, os.listdir(RUNS)[0], 'budget.json').read_text())",
        "print(found, len(context))",
        "!git log --oneline",
        "r = rlm_query('Edit the README.')",
        "r.apply()",
        "Path('README.md').read_text()",
    ),
    cell("FINAL(str(found))"),
)
CHILD = cell(
    "Path('README.md').write_text('edited')", "subprocess.run(['git', 'commit', '-qam', 'Edit'])", "FINAL('edited')"
)


def test_a_confined_run(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """Agents have git, a context and a sub-agent's edits, and reach neither a home, the checkout nor the record."""
    try:
        with Isolation(IsolationSettings(level="auto")) as isolation:
            isolation.choice()
    except IsolationError as error:
        pytest.skip(str(error))
    secret, context = tmp_path / "secret", tmp_path / "context.txt"
    secret.write_text("planted")
    context.write_text("a text")
    facts = f"SECRET, CHECKOUT, RUNS = {str(secret)!r}, {str(repository)!r}, {str(shell.here / 'runs')!r}"
    first = PARENT[0].replace("from pathlib import Path", f"from pathlib import Path\n{facts}")
    ended = shell.run(
        repository,
        "--model",
        shell.script({"root": [first, PARENT[1]], "root.1": [CHILD]}),
        "--context",
        context,
        RLM_ISOLATION_LEVEL="auto",
    )
    assert ended.code == 0, ended.err
    assert "'done'" not in ended.out
    assert "isolation is ns" in ended.err or "isolation is landlock" in ended.err
    assert "edited" in (ended.run / "changes.patch").read_text()
    assert "TODO" not in (ended.run / "changes.patch").read_text()
    recorded = read(ended.run / "root.ipynb")
    assert str(recorded.about["isolation"]).startswith(("ns", "landlock"))
    assert ("what isolation does not hold" in recorded.about) == (os.getuid() == 0 or "ns" not in str(recorded.about))
    check_record(ended.run)


def test_a_run_that_is_not_confined_says_so(shell: Shell, repository: Path) -> None:
    """On stderr when it begins, and in the head of the notebook."""
    ended = shell.run(repository, "--model", shell.script(HELLO))
    assert ended.code == 0, ended.err
    assert "isolation is none: cells run with the rights of the user who started the run" in ended.err
    assert str(read(ended.run / "root.ipynb").about["isolation"]).startswith("none")


def test_a_run_that_cannot_be_confined_does_not_begin(shell: Shell, repository: Path) -> None:
    """Less than what the settings demand is an error that names the setting; nothing is left behind."""
    settings = shell.settings(isolation={"level": "none", "min_level": "landlock"})
    ended = shell.run(repository, "--config", settings, "--model", shell.script(HELLO))
    assert ended.code == 1
    assert "isolation.min_level allows no less than landlock" in ended.last_line
    assert ended.left in ([], ["runs"])
