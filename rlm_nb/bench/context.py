"""Long texts: a gigabyte that is looked into where it lies, beside what the same work takes on bytes in memory."""

from __future__ import annotations

import mmap
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import regex

from rlm_nb.bench.table import Expectation, Row
from rlm_nb.context_access import Context, context_search, context_slice
from rlm_nb.workspace.scratch import scratch

LITERAL = Expectation(2, note="mmap.find")
PATTERN = Expectation(1.5, note="the same engine over bytes in memory")
SLICE = Expectation(1, unit=" ms", note="at any offset, once indexed")
MEMORY = Expectation(200, unit=" MB")

WORDS, LINES = "needle-4711", r"\bERROR\b.*disk \d+"
"""What is searched for; it stands at the end of each text only."""

LAST = "2026-01-01 12:00:00 ERROR on disk 99, needle-4711\n"

KINDS = {
    "ASCII": ["2026-01-01 12:{0:02}:00 INFO worker {1} has handled request {2} in {0} ms, and goes on\n"],
    "mixed UTF-8": [
        "2026-01-01 12:{0:02}:00 INFO worker {1} has handled request {2} in {0} ms\n",
        "Größe {1}: ein längerer Satz mit Umlauten, naïve café — und sonst ASCII wie immer\n",
        "日本語のテキスト {2} 🎉 und wieder {0}\n",
    ],
}


def measure(quick: bool) -> Iterator[Row]:
    """Texts made on the spot, each looked into by a process of its own, so that its memory is known."""
    size = 24 * 2**20 if quick else 2**30
    with scratch() as folder:
        for kind, lines in KINDS.items():
            path = folder / "text"
            _make(path, lines, size)
            yield from _rows(f"{size / 2**20:,.0f} MiB of {kind}", path)


def _rows(what: str, path: Path) -> Iterator[Row]:
    with Context.open(path) as context:
        began = time.perf_counter()
        length = len(context)
        yield Row(f"{what}: the index of {length:,} characters, built once", f"{time.perf_counter() - began:.2f} s")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            ours, plain = _best(
                lambda: context_search(context, WORDS, case_sensitive=True), lambda: mapped.find(WORDS.encode())
            )
        yield Row.judged(LITERAL, ours / plain, f"{what}: a literal search", f"{ours:.2f} s", f"{plain:.2f} s")
        ours, plain = _best(lambda: context_search(context, LINES, case_sensitive=True), _in_memory(path))
        yield Row.judged(PATTERN, ours / plain, f"{what}: a regex search", f"{ours:.2f} s", f"{plain:.2f} s")
        dice = random.Random(1)
        places = [dice.randrange(length) for _ in range(1000)]
        passes = [[_slice(context, place) for place in places] for _ in range(3)]
        worst = 1000 * max(map(min, zip(*passes, strict=True)))
        yield Row.judged(SLICE, worst, f"{what}: the slowest of 1,000 slices", f"{worst:.2f} ms")
    # Another process, so that nothing of what was in memory here counts.
    alone = subprocess.run([sys.executable, "-m", __name__, str(path)], capture_output=True, text=True, check=True)
    extra = int(alone.stdout) / 1e6
    yield Row.judged(MEMORY, extra, f"{what}: index, both searches and slices: peak of extra memory", f"{extra:.0f} MB")


def _in_memory(path: Path) -> Callable[[], object]:
    data, made = path.read_bytes(), regex.compile(LINES.encode())
    return lambda: made.search(data)


def _best(*works: Callable[[], object]) -> list[float]:
    """Seconds of the processor that each takes: the best of three, in turn, whatever else the machine does."""
    took: list[list[float]] = [[] for _ in works]
    for _ in range(3):
        for work, times in zip(works, took, strict=True):
            began = time.process_time()
            assert work() not in (-1, [], None)
            times.append(time.process_time() - began)
    return [min(times) for times in took]


def _slice(context: Context, start: int) -> float:
    began = time.perf_counter()
    context_slice(context, start, start + 2000)
    return time.perf_counter() - began


def _make(path: Path, lines: list[str], size: int) -> None:
    block = "".join(lines[n % len(lines)].format(n % 60, n % 977, n * 37) for n in range(50_000)).encode()
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(block)
        file.write(LAST.encode())


def _peak() -> int:
    """Bytes that this process has had at most, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # there, what `getrusage` tells begins with what the parent had
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _look_into(path: Path) -> None:
    before = _peak()
    with Context.open(path) as context:
        for pattern in (WORDS, LINES):
            assert context_search(context, pattern, case_sensitive=True)
        for start in range(0, len(context), len(context) // 100):
            context_slice(context, start, start + 2000)
    print(_peak() - before)  # noqa: T201


if __name__ == "__main__":
    _look_into(Path(sys.argv[1]))
