"""`rlm-nb step` and `rlm-nb run --approve` on a real terminal: somebody types, and reads what is shown."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
import yaml

from rlm_nb.notebook.reader import read

QUESTION = r"\(r\)un.*\(\?\): "


def python(*code: str) -> str:
    return "\n\n".join(f"```python\n{text}\n```" for text in code)


SCRIPT = {
    "root": [
        f"I look around.\n\n{python('x = 41')}",
        python("Path('README.md').unlink()"),
        python("sub = rlm_query('help')\nprint('after', sub)"),
        python("FINAL(x)"),
    ],
    "root.1": [python("FINAL('helped')")],
}


class Terminal:
    """A terminal with a command on it."""

    def __init__(self, child: pexpect.spawn) -> None:
        self.child = child

    def reads(self, pattern: str) -> str:
        """Wait for a text; returns what was shown up to its end, without colours."""
        self.child.expect(pattern)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", str(self.child.before) + str(self.child.after))

    def types(self, line: str) -> None:
        self.child.sendline(line)

    def ends(self) -> tuple[int, str]:
        """Wait for the end; returns the exit code, and what was still shown."""
        rest = self.reads(pexpect.EOF) if not self.child.eof() else ""
        self.child.wait()
        return self.child.exitstatus, rest


@contextmanager
def on_a_terminal(here: Path, *arguments: str, **variables: str) -> Iterator[Terminal]:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "rlm_nb", *arguments],
        cwd=str(here),
        env={**os.environ, "TERM": "xterm-256color", **variables},
        encoding="utf-8",
        timeout=40,
        dimensions=(40, 200),
    )
    child.delaybeforesend = None
    try:
        yield Terminal(child)
    finally:
        child.close(force=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "script.yaml").write_text(yaml.safe_dump({"agents": SCRIPT}))
    (folder / "config.yaml").write_text("rlm: {}\nmodel: {name: 'scripted:script.yaml'}\n")
    editor = folder / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/41/42/' \"$1\"\n")
    editor.chmod(0o755)
    return folder


def root_of(here: Path) -> Path:
    (notebook,) = (here / "runs").glob("*/root.ipynb")
    return notebook


def test_a_run_step_by_step(here: Path, repository: Path) -> None:
    """Shown and highlighted, edited in the editor, looked into, refused with words, undone, and let go."""
    with on_a_terminal(here, "step", str(repository), "-p", "Work", EDITOR=str(here / "editor")) as terminal:
        shown = terminal.reads(QUESTION)
        assert "root, iteration 1" in shown
        assert "I look around." in shown
        assert "x = 41" in shown
        assert "\x1b[" in str(terminal.child.before)
        terminal.types("what?")
        assert "undo all after an earlier iteration" in terminal.reads(QUESTION)
        terminal.types("e")
        assert "x = 42" in terminal.reads(QUESTION)
        terminal.types("")
        assert "unlink()" in terminal.reads(QUESTION)
        terminal.types("v x + 1")
        assert "43" in terminal.reads(QUESTION)
        terminal.types("b")
        assert re.search(r"spent, \$5\.00 left; 2 calls, 1 agent", terminal.reads(QUESTION))
        terminal.types("m Keep the README.")
        assert "iteration 3" in terminal.reads(QUESTION)
        terminal.types("n")
        assert "root.1, iteration 1" in terminal.reads(QUESTION)
        terminal.types("r")
        shown = terminal.reads(QUESTION)
        assert "after helped" in shown
        assert "root, iteration 4" in shown
        terminal.types("u 9")
        assert "3 iterations to go back to" in terminal.reads(QUESTION)
        terminal.types("u 3")
        assert "root, iteration 4" in terminal.reads(QUESTION)
        terminal.types("g")
        code, rest = terminal.ends()
    assert code == 0
    assert "completed: The agent called FINAL." in rest
    recorded = read(root_of(here))
    assert recorded.outcome is not None
    assert recorded.outcome.answer.value == 42
    assert [cell.human for turn in recorded.iterations for cell in turn.cells] == [True, False, False]
    assert "Keep the README." in recorded.iterations[2].message
    assert (repository / "README.md").exists()


def test_to_quit_and_ctrl_c(here: Path, repository: Path) -> None:
    """Both keep what there is; Ctrl-C says so with its exit code, whatever is waited for."""
    with on_a_terminal(here, "step", str(repository), "-p", "Work") as terminal:
        terminal.reads(QUESTION)
        terminal.types("r")
        terminal.reads(QUESTION)
        terminal.types("q")
        assert terminal.ends()[0] == 3
    assert len(read(root_of(here)).iterations) == 1
    with on_a_terminal(here, "step", str(repository), "-p", "Work", "--runs-dir", "others") as terminal:
        terminal.reads(QUESTION)
        terminal.types("r")
        terminal.reads(QUESTION)
        terminal.child.sendintr()
        code, rest = terminal.ends()
    assert code == 130
    assert "partial: The run was stopped: interrupted by the user." in rest


def test_approve_asks_for_cells_of_every_agent(here: Path, repository: Path) -> None:
    """And offers no more than that."""
    with on_a_terminal(here, "run", str(repository), "-p", "Work", "--approve") as terminal:
        seen = []
        for _ in range(5):
            shown = terminal.reads(QUESTION)
            assert "(u)ndo" not in shown
            seen += re.findall(r"(root[.\d]*, iteration \d)", shown)
            terminal.types("skip" if "unlink" in shown else "run")
        code, _ = terminal.ends()
    assert code == 0
    assert seen == [
        "root, iteration 1",
        "root, iteration 2",
        "root, iteration 3",
        "root.1, iteration 1",
        "root, iteration 4",
    ]
    assert read(root_of(here)).patch.files == ()
