"""What a person sees while a run goes on: a tree of agents that is drawn anew on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rlm_nb.cli import lines
from rlm_nb.cli.drawing import drawing
from rlm_nb.cli.progress import Progress
from rlm_nb.notebook.wording import printable
from rlm_nb.records import CellOutput, Event, Notice


def can_draw(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class View:
    """Shows a run while it goes on.

    It is a `Listener`: the agents' threads leave their events in a queue and go on, whatever becomes of the terminal.
    Everything else happens in the one thread that calls `paint`.

    Args:
        stream: Where it is shown, as a rule standard error.
        tree: Whether to draw the tree of agents; see `can_draw`.
        max_iterations: What an agent's turns are counted against.
        verbose: Whether to show each cell's code and output, too.
        redact: Applied to every line before it is shown.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        tree: bool,
        max_iterations: int,
        verbose: bool = False,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._events: queue.SimpleQueue[tuple[float, Event | str]] = queue.SimpleQueue()
        self._progress = Progress()
        self._painter: Painter = TreePainter(stream, max_iterations) if tree else LinePainter(stream)
        self._tree, self._max_iterations, self._verbose, self._redact = tree, max_iterations, verbose, redact
        self._gone = False

    def __call__(self, event: Event) -> None:
        """Take the event, to be shown by the next `paint`; from any thread."""
        if not isinstance(event, CellOutput):  # these come often, and the iteration will hold them all
            self._events.put((time.monotonic(), event))

    def say(self, text: str) -> None:
        """Show a sentence of our own; from any thread."""
        self._events.put((time.monotonic(), text))

    def __enter__(self) -> View:
        self._show(self._painter.open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.paint()
        finally:
            self._show(self._painter.close)

    def paint(self) -> None:
        """Show what happened since the last time."""
        while not self._events.empty():
            now, event = self._events.get()
            for line in self._told(event, now):
                self._show(self._painter.line, self._redact(line), now)
        self._show(self._painter.draw, self._progress, time.monotonic())

    def _told(self, event: Event | str, now: float) -> Iterator[str]:
        if isinstance(event, str):
            yield event
            return
        self._progress.take(event, now)
        if self._verbose:
            yield from (f"{event.agent}: {line}" for line in lines.detailed(event))
        if not self._tree or isinstance(event, Notice):
            yield from (f"{event.agent}: {line}" for line in lines.told(event, self._max_iterations))

    def _show(self, act: Callable[..., None], *arguments: object) -> None:
        """Paint, unless the terminal was closed or nobody reads the pipe: the run goes on, and its notebook tells."""
        if self._gone:
            return
        try:
            act(*arguments)
        except OSError:
            self._gone = True


class Painter(Protocol):
    """A way to show a run."""

    def open(self) -> None:
        """Begin."""
        ...

    def line(self, text: str, now: float) -> None:
        """Show a line that stays."""
        ...

    def draw(self, progress: Progress, now: float) -> None:
        """Show where things stand."""
        ...

    def close(self) -> None:
        """Leave the stream as it was."""
        ...


class LinePainter:
    """Lines, each after the seconds since the start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._started = stream, time.monotonic()

    def open(self) -> None:
        """Nothing to prepare."""

    def line(self, text: str, now: float) -> None:
        """Print the line."""
        print(f"[{now - self._started:7.1f}s] {printable(text)}", file=self._stream, flush=True)

    def draw(self, progress: Progress, now: float) -> None:
        """Nothing but lines is shown."""

    def close(self) -> None:
        """Nothing to undo."""


class TreePainter:
    """A tree of agents at the foot of the terminal; lines that stay scroll by above it."""

    def __init__(self, stream: TextIO, max_iterations: int) -> None:
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop")
        self._max_iterations = max_iterations

    def open(self) -> None:
        """Take the foot of the terminal."""
        self._live.start()

    def line(self, text: str, now: float) -> None:
        """Print the line above the tree."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def draw(self, progress: Progress, now: float) -> None:
        """Draw the tree anew."""
        height = max(2, self._console.size.height - 1)  # the cursor's line is not ours
        self._live.update(drawing(progress, now, height, self._max_iterations), refresh=True)

    def close(self) -> None:
        """Leave the tree as it was last drawn, and the cursor below it."""
        self._live.stop()
