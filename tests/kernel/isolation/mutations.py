"""Whether the tests notice when a mechanism of isolation is off: each in turn, in a copy of this checkout.

`python -m tests.kernel.isolation.mutations [WORD…]` prints which test failed, for each, or for those with one of these
words in their names. It ends with 1 when one was not noticed. It takes some minutes, is for root on a machine that
holds every level, and is no part of the suite. The copy has an environment of its own, since kernels find rlm-nb by
what is installed; its files are links to those of this one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.kernel.isolation import mutants, walls
from tests.kernel.isolation.mutants import Edit, Mutant

ROOT = Path(__file__).parents[3]
PATIENCE = 120.0
"""Seconds after which tests are ended; a mutant that hangs is noticed, too."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (?:\S+::)?(.+?)(?: - .*)?$", re.MULTILINE)


def main(words: list[str]) -> int:
    """Try the mutants with these words in their names, all without; the number of those that nobody noticed."""
    tried = [mutant for mutant in all_of_them() if not words or any(word in mutant.name for word in words)]
    for edit in (edit for mutant in tried for edit in mutant.edits):
        _edited(ROOT, edit)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder:
        copy = Path(folder)
        copy.chmod(0o755)  # for those without rights
        python = _copied(copy)
        for tests in dict.fromkeys(mutant.tests for mutant in tried):
            if (failed := _failed(python, copy, tests)) is not None:
                print(f"without a mutation, {tests} fails: {failed}")  # noqa: T201
                return 1
        for mutant in tried:
            began = time.monotonic()
            noticed = _noticed(python, copy, mutant)
            survived += noticed is None
            seconds = f"{time.monotonic() - began:4.0f} s"
            print(f"{mutant.name:<72} {seconds}  {noticed or 'NOT NOTICED'}", flush=True)  # noqa: T201
    print(f"{len(tried)} mutants, {survived} not noticed")  # noqa: T201
    return int(survived > 0)


def all_of_them() -> Iterator[Mutant]:
    """Every mutant, the walls first."""
    for some in (walls.namespaces, walls.landlock, walls.seccomp, walls.rights, walls.bubblewrap):
        yield from some()
    for some in (mutants.proofs, mutants.lives, mutants.limits):
        yield from some()


def _copied(copy: Path) -> Path:
    """Fill the folder with what git has of this checkout, and an environment; returns its Python."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy / name)
    environment = copy / "env"
    shutil.copytree(sys.prefix, environment, symlinks=True, copy_function=os.link)
    for path in environment.glob("lib/python*/site-packages/*.pth"):
        if path.read_text().strip() == str(ROOT):  # where an editable installation is
            path.unlink()
            path.write_text(f"{copy}\n")
            return environment / "bin/python"
    raise SystemExit(f"rlm-nb is not installed from {ROOT} in {sys.prefix}: make environment")


def _noticed(python: Path, copy: Path, mutant: Mutant) -> str | None:
    """Which test fails under the mutant."""
    before = {edit[0]: (copy / "rlm_nb/kernel" / edit[0]).read_text() for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            (copy / "rlm_nb/kernel" / edit[0]).write_text(_edited(copy, edit))
        return _failed(python, copy, mutant.tests)
    finally:
        for name, text in before.items():
            (copy / "rlm_nb/kernel" / name).write_text(text)


def _edited(checkout: Path, edit: Edit) -> str:
    """The file as it is to be. Ends the program when the mutant is for another text, or makes it none of Python."""
    name, old, new = edit
    text = (checkout / "rlm_nb/kernel" / name).read_text()
    if old not in text:
        raise SystemExit(f"{name} no longer has this text: {old!r}")
    text = text.replace(old, new)
    compile(text, name, "exec")
    return text


def _failed(python: Path, copy: Path, tests: str) -> str | None:
    """The first test that fails."""
    for cache in (copy / "rlm_nb").rglob("__pycache__"):  # files change within the resolution of their times
        shutil.rmtree(cache)
    arguments = tests.split(" ", 2)  # a path, -k, and the rest
    if len(arguments) == 3:
        arguments[2] = arguments[2].replace("[", " and ").replace("]", "")
    command = [str(python), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=no", *arguments]
    with subprocess.Popen(
        command, cwd=copy, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return f"hung for {PATIENCE:g} s"
        finally:
            _end_what_is_left(copy)
    if process.returncode == 0 and " passed" in said:
        return None
    found = _FAILED.search(said)
    return found.group(1) if found else f"pytest ended with {process.returncode}: {said[-300:]}"


def _end_what_is_left(copy: Path) -> None:
    """A mutant may leave processes that do not end by themselves."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[:1] == [str(copy / "env/bin/python")]:
                process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
