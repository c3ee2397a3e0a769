"""`make demo`: the recipe itself, in a copy of what it needs, with the environment that runs the tests."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from markdown_it import MarkdownIt

from rlm_nb.notebook.reader import read
from rlm_nb.notebook.tree import Node, as_text, tree
from tests.conftest import Git

ROOT = Path(__file__).parent.parent

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What moves a terminal's cursor, or colours its text."""

CHANGING = {
    r"\d{8}-\d{6}-[0-9a-f]{4}": "RUN",
    r"\b(\d+m)?\d+(\.\d+)?s\b": "TIME",
    r"\$\d+\.\d+": "COST",
    r"\b\d+(\.\d+)?k\b": "TOKENS",
}
"""What is another at each run: its name, its times, and what depends on the length of paths."""


@dataclass(frozen=True)
class Demo:
    """A demo that has ended.

    Args:
        folder: Where it ran: the top of a copy of this repository.
        printed: Everything that it wrote on its terminal, without colours.
    """

    folder: Path
    printed: str

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return next(path for path in (self.folder / "runs").iterdir() if path.is_dir())

    @property
    def tree(self) -> Node:
        """Its agents."""
        return tree(self.run)


@pytest.fixture(scope="module")
def demo(clean_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run on a terminal; setting up the environment is all that is left out."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("Makefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    litter = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=litter)
    code, printed = on_a_terminal(["make", "-o", "environment", "demo", f"VENV={sys.prefix}"], folder)
    assert code == 0, printed
    return Demo(folder, printed)


def test_the_tree_has_every_shape_that_the_demo_promises(demo: Demo) -> None:
    """Three sub-agents or more, one with a sub-agent of its own, all of them completed."""
    root = demo.tree
    assert len(root.children) >= 3
    assert sum(len(child.children) for child in root.children) == 1
    assert {node.status for node in everyone(root)} == {"completed"}


def test_one_cell_raises_and_the_agent_goes_on(demo: Demo) -> None:
    """The error stands in the root's notebook, and everything after it went well."""
    iterations = read(demo.run / "root.ipynb").iterations
    statuses = [cell.status for iteration in iterations for cell in iteration.cells]
    assert statuses.count("error") == 1
    assert statuses[-1] == "ok"
    names = {call.name for iteration in iterations for cell in iteration.cells for call in cell.calls}
    assert names == {"rlm_query", "llm_query", "FINAL"}


def test_every_notebook_is_valid_and_its_links_lead_somewhere(demo: Demo) -> None:
    """Up to the cell that asked, down to the sub-agents."""
    paths = sorted(demo.run.glob("*.ipynb"))
    notebooks = {path.name: nbformat.read(path, as_version=nbformat.NO_CONVERT) for path in paths}
    links = []
    for notebook in notebooks.values():
        nbformat.validate(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                links += re.findall(r"\]\(([^)\s]+\.ipynb)#cell-id=([^)\s]+)\)", cell.source)
    for name, place in links:
        assert place in {cell.id for cell in notebooks[name].cells}, f"{name}#cell-id={place}"
    children = len(notebooks) - 1
    assert len(links) >= 2 * children


def test_the_patch_repairs_the_example(demo: Demo, git: Git) -> None:
    """As `make demo` says it is applied; a test fails before, none fails after it."""
    pantry = demo.folder / "build" / "pantry"
    assert git(pantry, "status", "--porcelain") == ""
    assert "1 failed" in pytest_in(pantry).stdout
    advice = re.search(r"to have them +(\S+/rlm-nb apply last)", demo.printed)
    assert advice
    subprocess.run(advice[1].split(), cwd=demo.folder, check=True)
    after = pytest_in(pantry)
    assert after.returncode == 0, after.stdout
    changed = {line[3:] for line in git(pantry, "status", "--porcelain").splitlines()}
    assert changed >= {"pantry/shopping.py", "pantry/quantities.py", "tests/test_quantities.py"}
    git(pantry, "checkout", "--quiet", ".")


def test_the_answer_is_made_from_what_the_cells_found(demo: Demo) -> None:
    """Every TODO that is left is in the report at its place, and the tests' own words are."""
    answer = read(demo.run / "root.ipynb").outcome
    assert answer is not None
    text = answer.answer.text
    assert "28 passed" in text
    assert "\x1b" not in text
    places = set()
    for path in sorted((ROOT / "examples" / "pantry" / "pantry").glob("*.py")):
        lines = path.read_text("utf-8").splitlines()
        places |= {f"pantry/{path.name}:{number}" for number, line in enumerate(lines, 1) if "# TODO: " in line}
    done = {place for place in places if place.startswith("pantry/quantities.py")}
    assert set(re.findall(r"^\| `(pantry/\S+)` \|", text, re.MULTILINE)) == places - done


def test_it_says_what_is_real_and_where_to_look(demo: Demo) -> None:
    """The first line owns up to the script; the last ones name the notebook, the tree and the edits."""
    printed = demo.printed.splitlines()
    assert printed[0] == "The model is scripted (examples/demo.yaml), its costs with it; everything else is real."
    where = f"runs/{demo.run.name}"
    assert f"{where}/root.ipynb" in printed[-4]
    assert printed[-3].endswith("/rlm-nb tree last")
    assert printed[-2].endswith("/rlm-nb diff last")
    said = subprocess.run(
        [printed[-3].split()[-3], "tree", "last"], cwd=demo.folder, capture_output=True, text=True, check=True
    )
    assert said.stdout.replace(f"{where}/", f"{demo.run}/").strip() == as_text(demo.tree)


def test_it_runs_again_and_all_comes_out_as_before(demo: Demo) -> None:
    """Every agent's cells, with recorded answers: `rlm-nb replay --check` finds nothing."""
    command = [sys.executable, "-m", "rlm_nb", "replay", "last", "--check"]
    done = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr + done.stdout
    assert done.stderr.count("all came out as before") == len(everyone(demo.tree))


def test_the_readme_shows_what_it_prints(demo: Demo) -> None:
    """Line by line, but for what is another at each run and the order in which the sub-agents started."""
    printed = steady(demo.printed)
    for line in steady(in_the_readme("console", "make demo")).splitlines()[1:]:
        for part in line.strip("│├└─ ").split("…"):
            assert part in printed, line


def test_the_readme_shows_the_notebook(demo: Demo) -> None:
    """Every line of the excerpt is in the root's notebook, as Markdown; nbconvert says nothing about it."""
    converted = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--log-level=WARN", "--to", "markdown", "--stdout", "root.ipynb"],
        cwd=demo.run,
        capture_output=True,
        text=True,
        check=True,
    )
    assert converted.stderr == ""
    recorded = steady(converted.stdout).splitlines()
    for line in steady(in_the_readme("markdown", "## Iteration")).splitlines():
        assert line in recorded


def in_the_readme(language: str, beginning: str) -> str:
    """The block of the README that is in a language and has `beginning` in its first line."""
    blocks = MarkdownIt().parse((ROOT / "README.md").read_text("utf-8"))
    found = [block.content for block in blocks if block.type == "fence" and block.info == language]
    (block,) = (content for content in found if beginning in content.partition("\n")[0])
    return block


def on_a_terminal(command: list[str], folder: Path) -> tuple[int, str]:
    """Run the command on a terminal of its own; returns its exit code and what it wrote there, without colours."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env={**without_make(os.environ), "TERM": "xterm", "COLUMNS": "110", "LINES": "40"},
        )
        os.close(theirs)
        written = b""
        try:
            while piece := screen.read(65536):
                written += piece
        except OSError:
            pass  # how Linux says that nobody holds the other end any more
        return process.wait(), CODES.sub("", written.decode().replace("\r\n", "\n"))


def without_make(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a make that runs the tests would tell the make of the demo."""
    return {name: value for name, value in environment.items() if not name.startswith(("MAKE", "MFLAGS", "GNUMAKE"))}


def pytest_in(folder: Path) -> subprocess.CompletedProcess[str]:
    """The tests of a repository, run in it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def everyone(node: Node) -> list[Node]:
    """An agent and all below it."""
    return [node, *(below for child in node.children for below in everyone(child))]


def steady(text: str) -> str:
    """The text with a word in place of each thing that is another at each run."""
    for pattern, word in CHANGING.items():
        text = re.sub(pattern, word, text)
    return text
