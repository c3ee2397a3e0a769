"""What a real kernel finds in its REPL from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings
from rlm_nb.errors import KernelStartError
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import FREE, launcher  # noqa: F401 - one for all kernels of a test process

CONTEXT = "naïve\r\nlines\n \x00 and \U0001f40d "


@pytest.fixture(scope="module")
def evaluate(
    launcher: Launcher,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Any]]:
    """Runs a cell in the kernel of an agent without sub-agents, with a context, in a worktree full of module names."""
    folder = tmp_path_factory.mktemp("kernel")
    workdir = folder / "work"
    workdir.mkdir()
    (workdir / "ours.py").write_text("value = 5\n")
    (workdir / "yaml.py").write_text("ours = True\n")  # a name of an installed package
    (workdir / "types.py").write_text("raise SystemExit(9)\n")  # a name of the standard library
    (folder / "context.txt").write_bytes(CONTEXT.encode() + b"\xff")
    greeting = {"task": "Count the $TODOs", "subagents": False, "context": str(folder / "context.txt")}
    with ExitStack() as stack:
        kernel = stack.enter_context(
            KernelClient(
                launcher,
                folder,
                workdir,
                lambda number: folder / f"{number}.txt",
                KernelSettings(),
                lambda: greeting,
                lambda call, cancel: {"calls": 0},
                Cancellation(),
            )
        )

        def run(expression: str) -> Any:
            result = kernel.execute(f"FINAL({expression})", Cancellation())
            assert result.final is not None, result.error
            return result.final.value

        yield run


Evaluate = Callable[[str], Any]


def test_names(evaluate: Evaluate) -> None:
    """The functions, the folder and the modules are there; those for sub-agents are not where they may not nest."""
    names = set(evaluate("sorted(globals())"))
    assert names >= {"FINAL", "FINAL_VAR", "llm_query", "llm_query_batched", "edit_file", "budget"}
    assert names >= {"WORKDIR", "TASK", "context", "os", "subprocess", "Path"}
    assert not names & {"rlm_query", "rlm_query_batched"}
    assert evaluate("[str(WORKDIR) == os.getcwd(), isinstance(WORKDIR, Path), TASK]") == [
        True,
        True,
        "Count the $TODOs",
    ]


def test_context(evaluate: Evaluate) -> None:
    """A context that is not quite UTF-8 is readable all the same, and nothing of it is lost."""
    assert evaluate("[*map(ord, context)]") == [*map(ord, CONTEXT + "\\xff")]
    assert evaluate("[type(context).__name__, context_search(context, 'LINES')[0].line_number]") == ["str", 2]


@pytest.mark.parametrize("warm", [True, False])
def test_a_context_that_has_vanished(tmp_path: Path, clean_environment: Path, warm: bool) -> None:
    """The kernel does not start without it, and says why at once."""
    greeting = {"context": str(tmp_path / "gone.txt")}
    with (
        Launcher(warm=warm, isolation=FREE) as own,
        pytest.raises(KernelStartError, match=r"gone\.txt: the context cannot be read"),
    ):
        KernelClient(
            own,
            tmp_path,
            tmp_path,
            lambda number: tmp_path / f"{number}.txt",
            KernelSettings(),
            lambda: greeting,
            lambda call, cancel: None,
            Cancellation(),
        ).__enter__()


def test_imports(evaluate: Evaluate) -> None:
    """The worktree's modules come after the standard library's and before those of installed packages."""
    assert evaluate("__import__('ours').value") == 5
    assert evaluate("__import__('yaml').ours") is True
    assert evaluate("hasattr(__import__('types'), 'FunctionType')") is True
    assert evaluate("[entry for entry in __import__('sys').path if entry in ('', '.')]") == []


def test_names_come_back(evaluate: Evaluate) -> None:
    """The agent's own names are put back before the next cell; those it lacks do not appear by that."""
    evaluate("[globals().update(FINAL_VAR=None, budget=None), 1][1]")
    assert evaluate("[callable(FINAL_VAR), budget(), 'rlm_query' in globals()]") == [True, {"calls": 0}, False]


def test_a_name_that_yields(evaluate: Evaluate) -> None:
    """A variable named `output` is the cell's own, until it is deleted."""
    evaluate("globals().update(output=5)")
    assert evaluate("output") == 5
    evaluate("globals().pop('output')")
    assert evaluate("callable(output)") is True


def test_edit_file_stays_in_the_worktree(evaluate: Evaluate) -> None:
    """Also after a cell has gone elsewhere."""
    assert evaluate("[os.chdir('/'), edit_file('new.txt', '', 'x'), os.chdir(WORKDIR)][1]") == "new.txt: created"
    assert evaluate("Path('new.txt').read_text()") == "x"
    with pytest.raises(AssertionError, match="edit_file stays inside it"):
        evaluate("edit_file('../context.txt', '', 'x')")


def test_the_bridge_is_not_for_children(evaluate: Evaluate) -> None:
    """Neither its variable nor its descriptor reaches a program that a cell starts, however careless the cell is."""
    assert evaluate("'RLM_BRIDGE_FD' in os.environ") is False
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc here")
    program = "ls -l /proc/self/fd | grep -c socket:"
    assert evaluate(f"subprocess.run({program!r}, shell=True, stdout=-1, close_fds=False, text=True).stdout") == "0\n"
