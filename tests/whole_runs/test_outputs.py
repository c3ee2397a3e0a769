"""Whole runs in which a cell puts out more than its model is shown."""

from __future__ import annotations

from pathlib import Path

import rlm_nb
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.reader import read
from tests.whole_runs.conftest import cell, check_record

LONG = "print('\\n'.join(f'line {number}' for number in range(%d)))"


def test_the_rest_of_an_output(repository: Path, tmp_path: Path) -> None:
    """What is shown names where the rest is, in the notebook or in the file beside it; it is the agent's alone."""
    agents = {
        "root": [
            cell(LONG % 5000),
            cell("import os; os.kill(os.getpid(), 9)"),
            cell("found = output(1).search(r'^line 24\\d\\d$')", "print(found[0], output()[-9:], len(output(-1)))"),
            cell(LONG % 50_000),
            cell("last = output()", "again = [last.cell, last.count('\\n'), last[:6], last[-10:]]", "print(again)"),
            cell("print('reply with two cells')")
            + "\n"
            + cell("FINAL([again, str(output(-1)), rlm_query('peep').answer])"),
        ],
        "root.1": [cell("try: output(1)", "except LookupError as error: FINAL(str(error))")],
    }
    settings = {"kernel": {"max_output_bytes": 100_000}, "runs": {"dir": tmp_path / "runs"}}
    config = rlm_nb.load_config(flags=settings)
    result = rlm_nb.run("Do it.", repository, config, model=ScriptedModel.of(agents, price={"input": 1, "output": 1}))
    check_record(result.folder)
    again, before, peeped = result.root.answer.value
    assert again == [4, 49_999, "line 0", "line 49999"]
    assert before == "reply with two cells"
    assert peeped == "no cell has ended yet"

    told = [iteration.message for iteration in read(result.folder / "root.ipynb").iterations]
    assert "Output of cell 1, " in told[1]
    assert 'print(output(1)[6666:13332]), or output(1).search("…"), to see more' in told[1]
    assert "Output of cell 2 (the kernel ended)" in told[2]
    assert "Output of cell 3, " in told[3]
    assert "(2401, 'line 2400') line 4999 0\n" in told[3]
    assert "output(4) has all of it" in told[4]
    calls = [call for one in read(result.folder / "root.ipynb").iterations for ran in one.cells for call in ran.calls]
    assert len([call for call in calls if call.name == "output"]) >= 4
    assert all("text" not in call.answer for call in calls if call.name == "output")
