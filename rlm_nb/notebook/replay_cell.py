"""The cell that makes a record run again: the first of its code cells, folded away."""

from __future__ import annotations

from rlm_nb.notebook.metadata import Node

REPLAY, TAG = "replay", "rlm-replay"

_CODE = """\
# Run all: the cells below run again in a temporary copy of the files that they began with, and every call that they
# make gets the answer that it got. Nobody is asked, nothing is paid, and none of your files is changed.
import rlm_nb

rlm_nb.replay({name!r}, run={run!r})"""


def replay_cell(name: str, run: str) -> Node:
    """The cell.

    Args:
        name: The notebook's file name.
        run: The run that it belongs to.
    """
    return {
        "cell_type": "code",
        "id": REPLAY,
        "metadata": {"editable": False, "tags": [TAG], "jupyter": {"source_hidden": True}, "rlm": {}},
        "source": _CODE.format(name=name, run=run),
        "outputs": [],
        "execution_count": None,
    }
