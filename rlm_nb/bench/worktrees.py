"""What it takes to give an agent its files, beside a bare `git worktree add` of as many; and sixteen agents at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from rlm_nb.bench import source
from rlm_nb.bench.table import Expectation, Row, milliseconds
from rlm_nb.errors import RLMError
from rlm_nb.workspace import git
from rlm_nb.workspace.scratch import remove_tree, scratch
from rlm_nb.workspace.source import Source

EXPECTED = Expectation(1.5)

REPEATS = {200: 21, 2_000: 11, 50_000: 3}
"""How often each size is measured."""

AT_ONCE, FILES_EACH = 16, 2_000


def measure(quick: bool) -> Iterator[Row]:
    """A run's start and a sub-agent's for each size; ours and the bare one take turns in going first."""
    for files, repeats in ({20: 2} if quick else REPEATS).items():
        with scratch() as folder:
            yield from _sizes(source.make(folder / "repository", files), folder, files, repeats)
    with scratch() as folder:
        yield _at_once(folder, *((4, 20) if quick else (AT_ONCE, FILES_EACH)))


def _sizes(repository: Path, folder: Path, files: int, repeats: int) -> Iterator[Row]:
    bare: list[float] = []
    starts: list[float] = []
    children: list[float] = []
    for number in range(repeats):
        turns: list[Callable[[], None]] = [
            lambda: bare.append(_bare(repository, folder / "bare")),
            lambda: _ours(repository, folder / "run", starts, children),
        ]
        for turn in turns if number % 2 else reversed(turns):
            turn()
    for what, ours in [
        ("a run's start, with the snapshot of the checkout and a worktree", starts),
        ("a sub-agent's start, with the snapshot of its parent and a worktree", children),
    ]:
        yield Row.judged(
            EXPECTED,
            median(ours) / median(bare),
            f"{files:,} files: {what}; beside it, a bare `git worktree add`",
            milliseconds(ours),
            milliseconds(bare),
        )


def _bare(repository: Path, place: Path) -> float:
    users = git.of_user(repository)
    began = time.perf_counter()
    users.run("worktree", "add", "--quiet", "--detach", place)
    took = time.perf_counter() - began
    remove_tree(place)
    users.run("worktree", "prune")
    return took


def _ours(repository: Path, run: Path, starts: list[float], children: list[float]) -> None:
    for name in ("root", "child"):
        (run / name).mkdir(parents=True)
    began = time.perf_counter()
    with Source.open(str(repository), run) as opened, opened.checkout("root", run / "root") as parent:
        starts.append(time.perf_counter() - began)
        (parent.path / "package_0/module_0.py").write_text("changed\n", encoding="utf-8")
        began = time.perf_counter()
        base = parent.snapshot("asks for a sub-agent")
        with opened.checkout("root.1", run / "child", base):
            children.append(time.perf_counter() - began)
    remove_tree(run)


def _at_once(folder: Path, agents: int, files: int) -> Row:
    """All of them opened and kept in threads of one run, as a batch of sub-agents is."""
    repository, run = source.make(folder / "repository", files), folder / "run"
    run.mkdir()
    with Source.open(str(repository), run) as opened, ThreadPoolExecutor(agents) as threads:
        before = _disk(run)

        def work(number: int) -> bool:
            place = run / f"{number}"
            place.mkdir()
            try:
                with opened.checkout(f"root.{number}", place) as tree:
                    (tree.path / "new.py").write_text(f"{number}\n", encoding="utf-8")
                    return tree.patch().files == ("new.py",)
            except RLMError:
                return False

        began = time.perf_counter()
        failed = list(threads.map(work, range(agents))).count(False)
        took = time.perf_counter() - began
        each = (_disk(run) - before) / agents
    checkout = _disk(repository) - _disk(repository / ".git")
    return Row(
        f"{agents} agents' worktrees of {files:,} files opened and kept at once; disk used by each: "
        f"{each / 1e6:.1f} MB, where the files alone take {checkout / 1e6:.1f} MB",
        f"{took:.2f} s",
        "",
        f"{failed} failed",
        "0 failed",
        met=failed == 0,
    )


def _disk(folder: Path) -> int:
    """Bytes that a folder takes on disk, in whole blocks."""
    places = (Path(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files))
    return sum(place.lstat().st_blocks * 512 for place in places)
