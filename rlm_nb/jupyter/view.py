"""What a person sees of a run in a notebook: the agents as a tree, the cells that run, what it costs, how it ended.

Outputs of a cell that has just run are trusted by every front end, so HTML in them acts. What models and cells wrote is
therefore shown as text, or as what `report/inert.py` makes of it.
"""

from __future__ import annotations

import io
import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from rich.console import Console

from rlm_nb.cli.drawing import MARKS, drawing
from rlm_nb.cli.progress import AgentProgress, Progress
from rlm_nb.cli.wording import answer_headline, head, outputs_text, tokens
from rlm_nb.controller import RunResult
from rlm_nb.notebook.layout import prose
from rlm_nb.notebook.markup import in_html
from rlm_nb.notebook.wording import duration, first_line, headline, money, plural, printable
from rlm_nb.records import (
    AgentEnded,
    Answer,
    Balance,
    CellOutput,
    CellStarted,
    Event,
    Iterated,
    Iteration,
    Notice,
    Output,
    Proposal,
    Usage,
)
from rlm_nb.report import inert

HEIGHT = 40
"""Lines of the tree in plain text."""

WIDTH = 120
"""Its columns."""

FRAME = 0.25
"""Seconds between two pictures."""

SHOWN = 3
"""Cells that are shown while they run."""

STYLE = (
    "font-family: var(--jp-code-font-family, monospace); font-size: var(--jp-code-font-size, 13px); line-height: 1.5"
)
QUIET = "color: var(--jp-ui-font-color2, #666)"
COLOURS = {"completed": "#2e7d32", "partial": "#b26a00", "error": "#c62828"}


Picture = dict[str, str]
"""Something to be seen, by its forms: `text/plain`, `text/html`, …."""

Screen = Callable[[Picture], Callable[[Picture], None]]
"""Shows a picture in the output of the cell that runs; returns what puts another one in its place."""


def on_screen(picture: Picture) -> Callable[[Picture], None]:
    """The screen of an IPython kernel."""
    from IPython.display import display

    handle = display(picture, raw=True, display_id=True)
    return lambda another: handle.update(another, raw=True)


class NotebookView:
    """Shows a run in the output of a cell while it goes on. It is a `Listener`, as `cli.live.View`.

    Args:
        screen: Where.
        max_iterations: What an agent's turns are counted against.
        redact: Applied to all that is shown.
    """

    def __init__(self, screen: Screen, max_iterations: int, redact: Callable[[str], str]) -> None:
        self._screen = screen
        self._events: queue.SimpleQueue[tuple[float, Event | str]] = queue.SimpleQueue()
        self._progress = Progress()
        self._max_iterations, self._redact = max_iterations, redact
        self._notices: list[str] = []
        self._cells: dict[str, str] = {}
        self._outputs: dict[str, str] = {}
        self._folder: Path | None = None
        self._last: Picture = {}
        self._painted = 0.0

    def __call__(self, event: Event) -> None:
        """Take the event, to be shown by the next `paint`; from any thread."""
        self._events.put((time.monotonic(), event))

    def say(self, text: str) -> None:
        """Show a sentence of our own; from any thread."""
        self._events.put((time.monotonic(), text))

    def recorded_in(self, folder: Path) -> None:
        """From now on there are notebooks to link to."""
        self._folder = folder

    def __enter__(self) -> NotebookView:
        self._last = self._drawn()
        self._show = self._screen(self._last)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._paint()

    def paint(self) -> None:
        """Show what happened since the last time, if that is some time ago."""
        if time.monotonic() >= self._painted + FRAME:
            self._paint()

    def _paint(self) -> None:
        self._painted = time.monotonic()
        while not self._events.empty():
            self._take(*self._events.get())
        drawn = self._drawn()
        if drawn != self._last:
            self._last = drawn
            self._show(drawn)

    def _take(self, now: float, event: Event | str) -> None:
        if isinstance(event, str):
            self._notices.append(event)
            return
        match event:
            case Notice(text=text):
                self._notices.append(text)
            case CellStarted(agent=agent, code=code):
                self._cells[agent], self._outputs[agent] = code, ""
            case CellOutput(agent=agent, outputs=outputs):
                self._outputs[agent] = outputs_text(outputs[-1:])
            case Iterated(agent=agent) | AgentEnded(agent=agent):
                self._cells.pop(agent, None)
        if not isinstance(event, CellOutput):
            self._progress.take(event, now)

    def _drawn(self) -> Picture:
        now = time.monotonic()
        return {"text/plain": self._redact(self._plain(now)), "text/html": self._redact(self._html(now))}

    def _plain(self, now: float) -> str:
        out = io.StringIO()
        console = Console(file=out, width=WIDTH, color_system=None, highlight=False, force_jupyter=False)
        for notice in self._notices:
            console.print(headline(notice), markup=False, soft_wrap=True)
        console.print(drawing(self._progress, now, HEIGHT, self._max_iterations))
        return printable(out.getvalue()).rstrip()

    def _html(self, now: float) -> str:
        rows = [f'<div style="{QUIET}">{in_html(headline(notice))}</div>' for notice in self._notices]
        rows.append(f"<div><b>{self._whole(now)}</b>{_bar(self._progress.balance)}</div>")
        for root in self._progress.roots:
            rows.extend(self._agents(root, now, 0))
        running = list(self._cells.items())[-SHOWN:]
        rows.extend(_cell(agent, code, self._outputs.get(agent, "")) for agent, code in running)
        return f'<div style="{STYLE}">{"".join(rows)}</div>'

    def _whole(self, now: float) -> str:
        agents = self._progress.agents()
        if not agents:
            return "starting …"
        usage = sum((agent.usage for agent in agents), Usage())
        parts = [duration(agents[0].elapsed(now)), plural(len(agents), "agent"), f"{tokens(usage)} tokens"]
        if (balance := self._progress.balance) is not None:
            left = "no limit" if balance.left_cost is None else f"{money(balance.left_cost)} left"
            parts.append(f"{in_html(money(balance.spent_cost))} spent, {in_html(left)}")
        return " · ".join(parts)

    def _agents(self, agent: AgentProgress, now: float, depth: int) -> Iterator[str]:
        mark, _ = MARKS[agent.status]
        colour = COLOURS.get(agent.status or "", "#1565c0")
        name = self._link(agent.name)
        turns = plural(agent.iteration, "iteration") if agent.ended else f"{agent.iteration}/{self._max_iterations}"
        facts = [turns, duration(agent.elapsed(now)), f"{tokens(agent.usage)} tokens", in_html(money(agent.cost))]
        if agent.result is not None:
            doing = f"{agent.result.status}: {answer_headline(agent.result.answer)}"
        elif agent.waiting_for:
            doing = f"waiting for {plural(agent.waiting_for, 'sub-agent')}"
        else:
            doing = agent.activity
        yield (
            f'<div style="padding-left: {2 * depth}em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis">'
            f'<span style="color: {colour}">{mark}</span> <b>{name}</b> '
            f'<span style="{QUIET}">{" · ".join(facts)}</span> '
            f"{in_html(first_line(doing))}</div>"
        )
        for child in agent.children:
            yield from self._agents(child, now, depth + 1)

    def _link(self, agent: str) -> str:
        return in_html(agent) if self._folder is None else link(agent, self._folder / f"{agent}.ipynb")


def link(name: str, path: Path) -> str:
    """A link from a notebook in the current folder, which front ends follow to the file."""
    return f'<a href="{quote(_from_here(path), errors="surrogateescape")}">{in_html(name)}</a>'


def ended(result: RunResult, redact: Callable[[str], str], apply: str) -> Picture:
    """How a run ended: its answer, its notebook, its edits, and what it took.

    Args:
        result: What it left behind.
        redact: Applied to all that is shown.
        apply: What a person types to have the edits.
    """
    root, balance = result.root, result.balance
    took = ", ".join(
        [money(balance.spent_cost), f"{tokens(balance.spent)} tokens", duration(root.ended - root.started)]
    )
    why = f"{root.status}: {headline(root.outcome.stop_reason)}"
    answer = root.answer.text if root.outcome.source != "none" else "There is no answer."
    faults = [headline(text) for text in (*root.patch.notes, *result.faults)]
    patch = "nothing was changed" if result.patch_file is None else plural(len(root.patch.files), "file")
    how = "" if result.patch_file is None or result.checkout is None else f"; {apply} merges them into yours"
    plain = [answer.rstrip("\n"), "", why, f"notebook: {_from_here(root.notebook)}"]
    plain += [f"patch: {_from_here(result.patch_file)} ({patch}{how})" if result.patch_file else f"patch: {patch}"]
    plain += [f"took: {took}", *faults]
    shown = _answer(root.answer) if root.outcome.source != "none" else in_html(answer)
    links = [link("notebook", root.notebook)]
    links += [f"{link('patch', result.patch_file)} ({patch}{in_html(how)})" if result.patch_file else patch]
    lines = [f"{in_html(why)}", f"{' · '.join(links)} · {in_html(took)}", *map(in_html, faults)]
    html = shown + "".join(f'<div style="{QUIET}">{text}</div>' for text in lines)
    return {"text/plain": redact(printable("\n".join(plain))), "text/html": redact(html)}


def answered(answer: Answer, notebook: Path, redact: Callable[[str], str]) -> Picture:
    """The answer of an agent that waits for the next word."""
    plain = f"{answer.text}\n\nnotebook: {_from_here(notebook)}"
    html = f'{_answer(answer)}<div style="{QUIET}">{link("notebook", notebook)}</div>'
    return {"text/plain": redact(printable(plain)), "text/html": redact(html)}


def iteration(turn: Iteration, redact: Callable[[str], str]) -> Picture:
    """What a model said in an iteration; its cells are shown by themselves."""
    said = prose(turn.reply.text, turn.code or [cell.code for cell in turn.cells])
    note = turn.note or ""
    head = f"Iteration {turn.number}"
    html = f"<h4>{head}</h4>{inert.markdown(said, ())}{in_html(note)}"
    plain = "\n\n".join(part for part in (f"--- {head} ---", said, note) if part)
    return {"text/plain": redact(printable(plain)), "text/html": redact(html)}


def code(source: str, redact: Callable[[str], str]) -> Picture:
    """A cell."""
    plain = "\n".join(f">>> {line}" for line in printable(source).splitlines())
    return {"text/plain": redact(plain), "text/html": redact(inert.code(source))}


def inert_output(output: Output, redact: Callable[[str], str]) -> Picture:
    """A picture, a table or a value that a cell of a model's has put out, without what would act in a front end."""
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output["data"].items()}
    plain = data.get("text/plain") or f"[{', '.join(data)}]"
    return {"text/plain": redact(printable(plain)), "text/html": redact(inert.output(data, ()))}


def proposed(proposal: Proposal, redact: Callable[[str], str], step: str) -> Picture:
    """What a model proposes, without the cells, which are put where they can be run.

    Args:
        proposal: It.
        redact: Applied to all that is shown.
        step: What a person types to go on.
    """
    said = prose(proposal.reply.text, proposal.code)
    cost = f"iteration {proposal.number} · {tokens(proposal.reply.usage)} tokens, {money(proposal.reply.cost)}"
    note = "" if proposal.code else f"{proposal.note or 'There is no cell in this reply.'} {step} tells it so."
    plain = "\n\n".join(part for part in (said, note, cost) if part)
    rows = [inert.markdown(said, ()), f"<p>{in_html(note)}</p>" if note else ""]
    html = f'{"".join(rows)}<div style="{QUIET}">{in_html(cost)}</div>'
    return {"text/plain": redact(printable(plain)), "text/html": redact(html)}


def _answer(answer: Answer) -> str:
    return inert.markdown(answer.text, ()) if isinstance(answer.value, str) else f"<pre>{in_html(answer.text)}</pre>"


def _cell(agent: str, code: str, printed: str) -> str:
    text = "\n".join(head(code, 12))
    tail = "\n".join(printable(printed[-2000:]).splitlines()[-4:])
    style = "margin: 0.3em 0 0 0; padding-left: 0.8em; border-left: 3px solid #1565c0; white-space: pre-wrap"
    out = f'<pre style="{style}; {QUIET}">{in_html(tail)}</pre>' if tail.strip() else ""
    return f'<div style="{QUIET}">{in_html(agent)} runs</div><pre style="{style}">{in_html(text)}</pre>{out}'


def _bar(balance: Balance | None) -> str:
    """How much of the money is spent."""
    if balance is None or not balance.limit_cost:
        return ""
    share = min(100.0, 100 * balance.spent_cost / balance.limit_cost)
    return (
        f' <span title="{share:.0f}% of the money is spent" style="display: inline-block; width: 8em; height: 0.6em; '
        f'border: 1px solid #888"><span style="display: block; width: {share:.1f}%; height: 100%; '
        'background: #1565c0"></span></span>'
    )


def _from_here(path: Path) -> str:
    return os.path.relpath(path)
