"""Draws who worked when: a bar for each agent, with its model's time and its cells' time in it.

As a program it reads rows from standard input, as JSON, and writes the picture to standard output. That is how the end
of a run has it drawn (see `timeline.py`): matplotlib takes most of a second to import, may be set up otherwise in the
process that the run goes on in, and whatever goes wrong with it here costs no more than the picture. So nothing is
imported here that need not be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal

from rlm_nb.notebook.wording import money

MOST = 60
"""How many agents are drawn; a picture of more is no longer read."""

COLOURS = {"waiting": "#d4d4d4", "model": "#4c78a8", "cell": "#59a14f", "failed": "#e15759"}
"""Of what an agent does; while it waits for sub-agents or for a model, their bars say what goes on."""

LEGEND = {
    "model": "asks its model",
    "cell": "runs cells",
    "failed": "a cell fails",
    "waiting": "waits for what a cell asked",
}

Doing = Literal["model", "cell", "failed", "waiting"]


@dataclass(frozen=True)
class Row:
    """An agent in the picture.

    Args:
        agent: Its path in the tree.
        began, ended: Seconds since the epoch.
        cost: Micro-dollars, its own calls only.
        spans: What it did from when to when.
    """

    agent: str
    began: float
    ended: float
    cost: int
    spans: tuple[tuple[Doing, float, float], ...]


def draw(agents: Sequence[Row], file: IO[bytes], form: Literal["png", "svg"] = "png") -> None:
    """Write the picture of some agents, at least one. Nothing is in it that a model wrote."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # and never pyplot, which looks for a screen
    from matplotlib.patches import Patch

    shown = agents[:MOST]
    zero, last = min(agent.began for agent in shown), max(agent.ended for agent in shown)
    labels = [f"{'   ' * agent.agent.count('.')}{agent.agent}" for agent in shown]
    left, above, below = 0.2 + 0.075 * max(map(len, labels)), 0.35, 0.5  # inches
    width, height = 9.0, 0.26 * len(shown)
    figure = Figure(figsize=(width, height + above + below))
    axes = figure.add_axes(
        (left / width, below / figure.get_figheight(), 1 - left / width, height / figure.get_figheight())
    )
    for at, agent in enumerate(shown):
        for doing, colour in COLOURS.items():
            thick = 0.14 if doing == "waiting" else 0.62
            spans = [(began - zero, ended - began) for what, began, ended in agent.spans if what == doing]
            axes.broken_barh(spans, (at - thick / 2, thick), facecolors=colour)
        axes.text(
            agent.ended - zero, at, f"  {money(agent.cost)}", va="center", fontsize=8, parse_math=False, color="#555555"
        )
    axes.set_yticks(range(len(shown)), labels, ha="left", fontsize=9)
    axes.tick_params(axis="y", length=0, pad=72 * (left - 0.1))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(last - zero, 0.001) * 1.09)
    more = f"; {len(agents) - MOST} more agents are not shown" if len(agents) > MOST else ""
    axes.set_xlabel(f"seconds{more}", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    seen = {doing for agent in shown for doing, _, _ in agent.spans}
    keys = [Patch(color=COLOURS[doing], label=label) for doing, label in LEGEND.items() if doing in seen]
    figure.legend(handles=keys, loc="upper center", ncols=len(LEGEND), frameon=False, fontsize=8)
    with mpl.rc_context({"svg.hashsalt": "rlm-nb"}):  # the same run gives the same file
        figure.savefig(file, format=form, dpi=144, metadata={"Date": None} if form == "svg" else {"Software": None})


if __name__ == "__main__":
    draw([Row(**row) for row in json.load(sys.stdin)], sys.stdout.buffer, "svg" if sys.argv[1:] == ["svg"] else "png")
