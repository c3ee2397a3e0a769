"""How agents are called, and their notebooks after them."""

from __future__ import annotations

import re
from pathlib import Path

AGENT = re.compile(r"root(\.[1-9][0-9]{0,8})*")


def place(agent: str) -> list[int]:
    """Where an agent stands in the order of the tree: root.2, then root.2.1, then root.10."""
    return [int(number) for number in agent.split(".")[1:]]


def notebooks(run_folder: Path) -> list[Path]:
    """Those of a run's agents, in the order of the tree; nobody has looked into them yet."""
    found = [path for path in run_folder.glob("*.ipynb") if AGENT.fullmatch(path.stem)]
    return sorted(found, key=lambda path: place(path.stem))
