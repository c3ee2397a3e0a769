"""The drawing of the layers in pyproject.toml is held against the code, and a breach is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, to plant faults in."""
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    shutil.copytree(TOP / "rlm_nb", tmp_path / "rlm_nb", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_code_keeps_to_the_drawing(copy: Path) -> None:
    """Imports go down only, and siblings do not know each other."""
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("rlm_nb.bridge", "rlm_nb.agent"), ("rlm_nb.workspace", "rlm_nb.ledger")],
    ids=["upwards", "sibling"],
)
def test_a_planted_breach_is_found(copy: Path, importer: str, imported: str) -> None:
    """An import upwards, or of a sibling, fails the check, which names both modules."""
    with (copy / importer.replace(".", "/") / "__init__.py").open("a", encoding="utf-8") as module:
        module.write(f"\nimport {imported}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{importer} is not allowed to import {imported}" in done.stdout
