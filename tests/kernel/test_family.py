"""Processes below another, found and ended however they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHAIN = '[ "$1" -gt 0 ] && sh "$0" $(($1 - 1)) || { echo ready; sleep 60; }\n:\n'

END = """
import os, subprocess, sys
from rlm_nb.kernel import family

with subprocess.Popen(["sh", *sys.argv[1:]], stdout=subprocess.PIPE, start_new_session=True) as first:
    first.stdout.readline()
    print(len(list(family.descendants(os.getpid()))))
    family.end(os.getpid())
    print(len(list(family.descendants(os.getpid()))), len(list(family.living(os.getpid()))))
"""


def test_a_chain_longer_than_pythons_stack(tmp_path: Path) -> None:
    """Each process the child of the one before: all are found, and ended."""
    script = tmp_path / "chain.sh"
    script.write_text(CHAIN)
    command = [sys.executable, "-c", END, str(script), "1100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1102\n0 0\n", "")
