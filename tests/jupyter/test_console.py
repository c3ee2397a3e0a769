"""The magics in `jupyter console`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect

from tests.jupyter.conftest import write_script
from tests.whole_runs.conftest import cell


def test_a_task_at_a_prompt(repository: Path, tmp_path: Path) -> None:
    """The answer is printed, once; a proposed cell stands at the next prompt."""
    model = write_script(tmp_path / "script.yaml", {"root": [cell("x = 20 + 1"), cell("FINAL(x)")]})
    console = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter", "console", "--kernel=python3", "--simple-prompt"],
        cwd=repository,
        env=os.environ | {"RLM_RUNS_DIR": str(tmp_path / "runs"), "TERM": "dumb", "RLM_MODEL": model},
        encoding="utf-8",
        timeout=60,
    )
    try:
        console.expect(r"In \[1\]: ")
        console.sendline("%load_ext rlm_nb")
        console.expect(r"In \[2\]: ")
        console.sendline("get_ipython().run_cell_magic('rlm', '', 'Count.')")
        console.expect("completed: The agent called FINAL.")
        console.expect(r"In \[3\]: ")
        console.sendline("_rlm.answer.value * 2")
        console.expect("42")
        console.sendline("exit()")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)
