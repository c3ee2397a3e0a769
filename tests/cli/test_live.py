from __future__ import annotations

import io
import os
import pty
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_nb.cli.live import View, can_draw
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Answer,
    Asked,
    CellOutput,
    CellResult,
    CellStarted,
    Event,
    Iterated,
    Iteration,
    Notice,
    Outcome,
    Patch,
    Reply,
    Task,
    Usage,
)
from tests.cli.conftest import Terminal

PRINTED = {"output_type": "stream", "name": "stdout", "text": "\n".join(f"line {n}" for n in range(30))}
FAILED = CellResult("print(x)", "error", (PRINTED,), error="NameError: name 'x' is not defined")
RESULT = AgentResult(
    "root",
    Outcome("completed", Answer.of("Hello,\nworld"), "final", "FINAL was called"),
    Patch(),
    Path("root.ipynb"),
    cost=40_000,
    iterations=2,
    started=100.0,
    ended=112.0,
)
A_RUN: list[Event] = [
    AgentStarted("root", Task("Say \x1b[31mhello[/].\nPolitely.")),
    Notice("root", "The folder is no git repository: it was copied."),
    Asked("root", 1),
    CellStarted("root", 1, 1, "print(x)"),
    CellOutput("root", 1, 1, (PRINTED,)),
    Iterated("root", Iteration("root", 1, "", Reply("", Usage(900, 100), cost=2_000), (FAILED,), None, 100.0, 103.5)),
    Iterated("root", Iteration("root", 2, "", Reply(""), note="the reply has no cell")),
    AgentEnded("root", RESULT),
]


def shown(*, verbose: bool = False) -> list[str]:
    """What the run looks like in plain lines, their times left out."""
    stream = io.StringIO()
    with View(stream, tree=False, max_iterations=50, verbose=verbose) as view:
        for event in A_RUN:
            view(event)
    return [line.partition("] ")[2] for line in stream.getvalue().splitlines()]


def test_plain_lines_tell_the_run() -> None:
    """One line for each event worth telling, with whose it is."""
    assert shown() == [
        "root: started: Say hello[/].",
        "root: The folder is no git repository: it was copied.",
        "root: iteration 1/50: 1 cell ran, the last raised: NameError: name 'x' is not defined"
        " (3.5s, 1.0k tokens, $0.0020)",
        "root: iteration 2/50: the reply has no cell (0.0s, 0 tokens, $0.00)",
        "root: completed after 2 iterations, 12s, $0.0400: Hello,",
    ]


def test_verbose_adds_code_and_the_head_of_outputs() -> None:
    """As much of them as shows what happened, and how much is left out."""
    added = [line for line in shown(verbose=True) if line not in shown()]
    assert added[0] == "root:   >>> print(x)"
    assert added[1:3] == ["root:   line 0", "root:   line 1"]
    assert added[-1] == "root:   … 22 more lines"


def test_a_line_is_never_longer_than_a_line() -> None:
    """Long tasks, answers and outputs of one line are cut; the notebook has them whole."""
    result = replace(RESULT, outcome=Outcome("completed", Answer.of(["x" * 90_000]), "final", "FINAL was called"))
    printed = {"output_type": "stream", "name": "stdout", "text": "y" * 90_000}
    stream = io.StringIO()
    with View(stream, tree=False, max_iterations=50, verbose=True) as view:
        view(AgentStarted("root", Task("z" * 90_000)))
        view(Iterated("root", Iteration("root", 1, "", Reply(""), (CellResult("print(x)", "ok", (printed,)),))))
        view(AgentEnded("root", result))
    lines = stream.getvalue().splitlines()
    assert [line[-1] for line in lines if len(line) > 90] == ["…"] * 3
    assert max(map(len, lines)) < 400


def test_the_tree_is_drawn_on_a_terminal(terminal: Terminal) -> None:
    """Notices stay above the tree, the cursor comes back, and nothing the model wrote commands the terminal."""
    with os.fdopen(os.dup(terminal.slave), "w") as stream:
        with View(stream, tree=True, max_iterations=50) as view:
            for event in A_RUN:
                view(event)
                view.paint()
    text = terminal.read_to_end()
    assert "The folder is no git repository" in text
    assert "asking the model: Say hello[/]." in text
    assert "completed: Hello," in text
    assert "\x1b[31mhello" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.parametrize("tree", [False, True])
def test_a_closed_stream_stops_nobody(tree: bool) -> None:
    """A pipe whose reader has gone, a terminal that was closed: events are still taken, nothing is raised."""
    if tree:
        reader, writer = pty.openpty()
    else:
        reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    with View(stream, tree=tree, max_iterations=50) as view:
        for event in A_RUN * 2:
            view(event)
            view.paint()
    with pytest.raises(OSError, match=r"Broken pipe|Input/output error"):
        stream.close()  # what was buffered


def test_agents_do_not_wait_for_a_stream_that_is_full() -> None:
    """A reader that does not read blocks the thread that paints, and no other."""
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    with View(stream, tree=False, max_iterations=50) as view:
        for _ in range(3000):
            view(Notice("root", "x" * 100))
        painting = threading.Thread(target=view.paint)
        painting.start()
        for _ in range(3000):
            view(Notice("root", "x" * 100))  # more than any pipe holds by now
        assert painting.is_alive()
        drain = threading.Thread(target=lambda: [None for chunk in iter(lambda: os.read(reader, 65536), b"")])
        drain.start()
        painting.join()
    stream.close()
    drain.join()
    os.close(reader)


def test_keys_are_not_shown() -> None:
    """Every line goes by what was given to redact it."""
    stream = io.StringIO()
    with View(stream, tree=False, max_iterations=50, redact=lambda text: text.replace("sk-1", "[KEY]")) as view:
        view(Notice("root", "refused: sk-1"))
        view.say("with sk-1")
    assert "sk-1" not in stream.getvalue()
    assert stream.getvalue().count("[KEY]") == 2


def test_where_a_tree_can_be_drawn(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal that can move its cursor, whatever variables ask for colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with os.fdopen(os.dup(terminal.slave), "w") as stream:
        assert can_draw(stream)
        monkeypatch.setenv("TERM", "dumb")
        assert not can_draw(stream)
    assert not can_draw(io.StringIO())
