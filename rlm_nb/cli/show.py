"""`rlm-nb show`: a run, an agent of it or one iteration, read in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlm_nb.cli.streams import tell, write

if TYPE_CHECKING:
    from rlm_nb.notebook.metadata import Recorded
    from rlm_nb.records import CellResult, Iteration

LINES = 20
"""How many lines of an output are shown where many are; a single iteration is shown whole."""


@dataclass(frozen=True)
class Piece:
    """Something to read, in text that commands no terminal."""

    kind: Literal["title", "facts", "prose", "code", "output", "fault"]
    text: str


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:AGENT[:ITERATION]]",
            help="A run as for `rlm-nb tree`; an agent of it, root.1 or 1; one of its iterations.",
        ),
    ] = "last",
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Print a run: its agents and its answer; or what an agent thought, ran and saw, iteration by iteration."""
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.cli.runs import find_run, parts
        from rlm_nb.config import load

        name, agent, number = parts(what)
        folder = find_run(name, load(config, {"runs": {"dir": runs_dir}}).runs.dir)
        pieces = list(_agent(folder, agent, number) if agent else _run(folder))
        try:
            if sys.stdout.isatty():
                _print(pieces)
            else:
                write("\n\n".join(_plain(piece) for piece in pieces))
        except OSError as error:
            tell(f"Error: the run could not be written to stdout: {error.strerror or error}")
            sys.exit(1)


def _run(folder: Path) -> Iterator[Piece]:
    """What was asked, how it ended, the tree, and the answer."""
    from rlm_nb.errors import RunFolderError
    from rlm_nb.notebook.tree import as_text, at_work, everyone, tree
    from rlm_nb.notebook.wording import duration, money, printable
    from rlm_nb.records import Answer
    from rlm_nb.run_folder import summary

    node = tree(folder)
    answer = None
    try:
        run = summary(folder)
        node = at_work(node) if run.status == "running" else node
        cost = [] if run.cost is None else [money(round(run.cost * 1e6))]
        facts = [run.id, run.status, *([duration(run.ended - run.started)] if run.ended else []), *cost]
        yield Piece("title", printable(run.task))
        yield Piece("facts", printable(" · ".join(facts)))
        if run.stop_reason:
            yield Piece("facts", printable(run.stop_reason))
        answer = Answer.of(run.answer) if run.answer is not None else None
    except RunFolderError as error:
        yield Piece("fault", printable(str(error)))
    yield Piece("output", printable(as_text(node)))
    if answer is not None:
        yield Piece("title", "Answer")
        yield Piece("prose" if isinstance(answer.value, str) else "output", printable(answer.text))
    agents = [one.agent for one in everyone(node) if one.fault is None]
    if agents and agents != ["task"]:
        yield Piece("facts", f"To read on: rlm-nb show {folder.name}:{agents[-1]}")


def _agent(folder: Path, agent: str, number: int | None) -> Iterator[Piece]:
    """All iterations of an agent, or one of them whole."""
    from rlm_nb.errors import NotebookError
    from rlm_nb.notebook.names import AGENT
    from rlm_nb.notebook.reader import read
    from rlm_nb.notebook.wording import printable

    path = folder / f"{agent}.ipynb"
    if not AGENT.fullmatch(agent):
        raise NotebookError(f"{agent} is no agent; they are called root, root.1, root.1.2, …")
    if path.is_symlink():
        raise NotebookError(f"{path}: is a link, which is not followed")
    recorded = read(path)
    if number is not None:
        for iteration in recorded.iterations:
            if iteration.number == number:
                yield from _iteration(agent, iteration, None)
                return
        raise NotebookError(f"{path}: there is no iteration {number}; it has {len(recorded.iterations)}")
    yield from _head(recorded)
    theirs = list(recorded.asides)
    for iteration in recorded.iterations:
        while theirs and iteration.cells and theirs[0].number < iteration.cells[0].number:
            yield from _aside(theirs.pop(0))
        yield from _iteration(agent, iteration, LINES)
    for cell in theirs:
        yield from _aside(cell)
    if recorded.outcome is not None:
        yield Piece("title", "Answer" if recorded.outcome.source != "none" else "No answer")
        yield Piece("facts", printable(recorded.outcome.stop_reason))
        answer = recorded.outcome.answer
        yield Piece("prose" if isinstance(answer.value, str) else "output", printable(answer.text))


def _head(recorded: Recorded) -> Iterator[Piece]:
    from rlm_nb.notebook.wording import duration, money, plural, printable

    status = recorded.outcome.status if recorded.outcome else "unfinished"
    facts = [recorded.task.agent, status, plural(len(recorded.iterations), "iteration"), money(recorded.cost)]
    if recorded.ended:
        facts.append(duration(recorded.ended - recorded.started))
    yield Piece("title", printable(recorded.task.prompt))
    yield Piece("facts", " · ".join(facts))
    for notice in recorded.notices:
        yield Piece("fault", printable(notice))


def _iteration(agent: str, iteration: Iteration, lines: int | None) -> Iterator[Piece]:
    """What the model said, and what its cells did; all of it, with what it was told, where `lines` is `None`."""
    from rlm_nb.cli.wording import tokens
    from rlm_nb.notebook.layout import prose
    from rlm_nb.notebook.wording import duration, money, printable

    reply = iteration.reply
    facts = [money(reply.cost), duration(iteration.ended - iteration.started), f"{tokens(reply.usage)} tokens"]
    yield Piece("title", f"{agent}, iteration {iteration.number}")
    yield Piece("facts", " · ".join(facts))
    if lines is None:
        yield Piece("output", printable(iteration.message))
    if iteration.note:
        yield Piece("fault", printable(iteration.note))
    if said := printable(prose(reply.text, [cell.code for cell in iteration.cells])).strip():
        yield Piece("prose", said)
    for cell in iteration.cells:
        yield from _cell(cell, lines)


def _aside(cell: CellResult) -> Iterator[Piece]:
    yield Piece("title", f"A person ran in its kernel, as cell {cell.number}")
    yield from _cell(cell, LINES)


def _cell(cell: CellResult, lines: int | None) -> Iterator[Piece]:
    from rlm_nb.cli.wording import head, outputs_text
    from rlm_nb.notebook.calls import told
    from rlm_nb.notebook.wording import printable

    yield Piece("code", printable(cell.code).rstrip("\n"))
    shown = outputs_text([output for output in cell.outputs if output.get("output_type") != "error"])
    if shown := printable(shown).rstrip() if lines is None else "\n".join(head(shown, lines)):
        yield Piece("output", shown)
    for line in told(cell):
        yield Piece("facts", line)
    for event in cell.events:
        yield Piece("fault", printable(event))
    if cell.status != "ok" and cell.error:
        yield Piece("fault", printable(cell.error))


def _plain(piece: Piece) -> str:
    if piece.kind == "title":
        return f"## {piece.text}"
    if piece.kind == "code":
        return "\n".join(f"┃ {line}" for line in piece.text.splitlines())
    return piece.text


def _print(pieces: list[Piece]) -> None:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.syntax import Syntax
    from rich.text import Text

    console = Console(highlight=False, emoji=False, markup=False)
    styles = {"title": "bold cyan", "facts": "dim", "output": "", "fault": "red"}
    highlighter = Syntax("", "python", theme="ansi_dark")
    for piece in pieces:
        if piece.kind == "title":
            console.rule(style="dim")
        if piece.kind == "prose":
            console.print(Markdown(piece.text, hyperlinks=False))
        elif piece.kind == "code":
            code = highlighter.highlight(piece.text)
            code.rstrip()
            console.print(Text("\n").join(Text("┃ ", "green") + line for line in code.split("\n")), soft_wrap=True)
        else:
            console.print(Text(piece.text, styles[piece.kind]), soft_wrap=True)
        console.print()
