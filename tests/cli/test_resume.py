"""`rlm-nb resume` and `rlm-nb fork`: what a person types, and what he is told."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cli.conftest import Command

SCRIPT = {
    "root": [
        "```python\nx = 20\n```",
        "```python\nFINAL(x + 1)\n```",
        "```python\nFINAL(x + 2)\n```",
    ]
}


def test_a_run_goes_on_and_goes_another_way(rlm_nb: Command, repository: Path, tmp_path: Path) -> None:
    """A raised limit lets it end, once; a fork shares its beginning and takes a message; wrong usage is told."""
    script = tmp_path / "script.yaml"
    script.write_text(yaml.safe_dump({"agents": SCRIPT}))
    first = rlm_nb("run", repository, "-p", "Work", "--model", f"scripted:{script}", "--max-iterations", "1")
    assert first.returncode == 3, first.stderr
    assert first.stdout == "21\n"
    resumed = rlm_nb("resume", "--max-iterations", "5")
    assert (resumed.returncode, resumed.stdout) == (0, "22\n"), resumed.stderr
    assert "It was broken off (The limit of 1 iterations was reached), and goes on since" in resumed.stderr
    assert "3 iterations" in rlm_nb("tree", "last").stdout
    again = rlm_nb("resume", "last")
    assert again.returncode == 1
    assert "has completed its task; `rlm-nb fork` goes on from a part of it" in again.stderr
    (run,) = (tmp_path / "here" / "runs").glob("*-*-*")
    forked = rlm_nb("fork", run.name, "--at", "1", "-p", "Once more.", "--max-iterations", "5")
    assert (forked.returncode, forked.stdout) == (0, "21\n"), forked.stderr
    assert f"It shares the run {run.name} up to iteration 1 of root" in forked.stderr
    assert len(list((tmp_path / "here" / "runs").glob("*-*-*"))) == 2
    for at, code, said in (("x", 2, "is no iteration"), ("1.2:1", 1, "has no notebook of an agent root.1.2")):
        refused = rlm_nb("fork", run.name, "--at", at)
        assert refused.returncode == code
        assert said in " ".join(refused.stderr.replace("│", " ").split())
    assert len(list((tmp_path / "here" / "runs").glob("*-*-*"))) == 2
