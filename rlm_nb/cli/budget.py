"""`rlm-nb budget`: what a budget holds, what was spent of it, and who has something reserved."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlm_nb.cli.streams import tell, write
from rlm_nb.notebook.wording import duration, money, plural, printable

if TYPE_CHECKING:
    from rlm_nb.ledger import Book

KINDS = ("cost", "input_tokens", "output_tokens", "calls", "sandboxes")
"""What has a limit, by its name in the file."""


def budget(
    budget: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE_OR_RUN",
            help="A budget file; or a run: its id, the beginning of one, its folder, or `last`. "
            "Default: the budget.file of the settings, or the last run.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with money in US dollars.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Show a budget: its limits, what was spent and by whom, and what is reserved by whom."""
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.config import load
        from rlm_nb.ledger import BudgetFile

        path = _file(budget, load(config, {"runs": {"dir": runs_dir}}))
        told = facts(path, BudgetFile.look(path), time.time())
        try:
            write(json.dumps(told, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(told)))
        except OSError as error:
            tell(f"Error: the budget could not be written to stdout: {error.strerror or error}")
            sys.exit(1)


def _file(name: str | None, config: Any) -> Path:
    from rlm_nb.cli.runs import find_run

    if name is None and config.budget.file is not None:
        return Path(config.budget.file)
    if name is not None and name.endswith(".json"):
        return Path(name)
    with suppress(OSError):  # it may not be looked at, which is said below
        if name is not None and Path(name).is_file():
            return Path(name)
    return find_run(name or "last", config.runs.dir) / "budget.json"


def facts(path: Path, book: Book, now: float) -> dict[str, Any]:
    """What the file says, as plain values: money in US dollars, times in seconds since the epoch."""
    from rlm_nb.processes import is_alive

    room = book.room()
    spent, limits = _plain(book.spent.amount), _plain(book.limits)
    taken = _plain(room.taken)
    return {
        "file": str(path.resolve()),
        "created": book.created,
        "deadline": book.limits.deadline,
        "seconds_left": None if book.limits.deadline is None else max(0.0, book.limits.deadline - now),
        "limits": limits,
        "spent": spent,
        "reserved": {kind: taken[kind] - spent[kind] for kind in spent},
        "left": {kind: None if (top := limits[kind]) is None else max(0, top - taken[kind]) for kind in limits},
        "spent_by": {payer: _plain(amount.amount) for payer, amount in book.agents.items()},
        "reserved_by": [
            {
                "agent": held.agent,
                "run": held.run or None,
                "kind": held.kind,
                **_plain(held.amount),
                "pid": held.pid,
                "since": held.since or None,
                "alive": is_alive(held.pid, held.started),
            }
            for held in book.leases.values()
        ],
    }


def lines(told: dict[str, Any]) -> list[str]:
    """The same for a person: a table of each kind, then one line for each who spent or holds something."""
    rows = [["", "spent", "reserved", "limit", "left"]]
    for kind in told["limits"]:
        limit, left = (_said(kind, told[column][kind], "none") for column in ("limits", "left"))
        rows.append([WORDS[kind], _said(kind, told["spent"][kind]), _said(kind, told["reserved"][kind]), limit, left])
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    said = [
        told["file"],
        *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows),
    ]
    if told["seconds_left"] is not None:
        left = told["seconds_left"]
        said.append(f"time: {duration(left)} left" if left else "time: it is up")
    for payer, amount in told["spent_by"].items():
        said.append(f"spent by {_name(payer)}: {_amount(amount)}")
    for held in told["reserved_by"]:
        said.append(f"reserved by {_holder(held)}")
    return said


def _holder(held: dict[str, Any]) -> str:
    """One reservation: whose, for what, and whether there still is somebody to give it back."""
    who = _name(f"{held['run']} {held['agent']}" if held["run"] else held["agent"])
    since = f", since {duration(max(0.0, time.time() - held['since']))}" if held["since"] else ""
    dead = "that has died: a call counts as spent at the next use, all else comes back"
    process = f"process {held['pid']}" if held["alive"] else f"process {held['pid']} {dead}"
    return f"{who} for {PURPOSES[held['kind']]}: {_amount(held)}, {process}{since}"


def _name(text: str) -> str:
    """A name in a line: it makes no other line, and commands no terminal."""
    return printable(" ".join(text.split()))


def _plain(amount: Any) -> dict[str, Any]:
    """By kind, money in US dollars."""
    values = {kind: getattr(amount, kind) for kind in KINDS}
    cost = values.pop("cost")
    return {"cost_usd": None if cost is None else cost / 1e6, **values}


def _said(kind: str, value: float | None, nothing: str = "") -> str:
    if value is None:
        return nothing
    return money(round(value * 1e6)) if kind == "cost_usd" else f"{value:,}"


def _amount(amount: dict[str, Any]) -> str:
    said = [_said("cost_usd", amount["cost_usd"])]
    said += [f"{amount[kind]:,} {WORDS[kind]}" for kind in ("input_tokens", "output_tokens") if amount[kind]]
    said += [plural(amount[kind], WORDS[kind][:-1]) for kind in ("calls", "sandboxes") if amount[kind]]
    return ", ".join(said)


WORDS = {
    "cost_usd": "money",
    "input_tokens": "tokens read",
    "output_tokens": "tokens written",
    "calls": "calls",
    "sandboxes": "agents",
}

PURPOSES = {"call": "a call", "finishing": "its last turn", "opening": "an agent that starts"}
