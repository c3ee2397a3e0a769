"""A program for the tests: all of `rlm-nb run` but the controller, whose part is staged.

    python staged_run.py [-v] MODE ANSWER [OUTPUT]

Modes: `answer`, `partial` and `error` end so; `wait` goes on until it is cancelled; `stubborn` starts a process and
does not hear; `refuse` and `break` raise what is expected and what is not. Under way, it gives notice: `staged.`
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from rlm_nb.cancellation import Cancellation
from rlm_nb.cli.door import door
from rlm_nb.cli.run import run_to_its_end, view_for
from rlm_nb.config import Config
from rlm_nb.errors import CancelledError, SourceError
from rlm_nb.protocols import Listener
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Answer,
    Asked,
    Balance,
    CellStarted,
    Charged,
    Notice,
    Outcome,
    Patch,
    Task,
    Usage,
)


def main() -> None:
    verbose = sys.argv[1] == "-v"
    mode, answer, *rest = sys.argv[2:] if verbose else sys.argv[1:]

    def begin(*, listen: Listener, cancel: Cancellation) -> SimpleNamespace:
        listen(AgentStarted("root", Task("Say hello.")))
        listen(Asked("root", 1))
        listen(Charged("root", 20_000, Usage(1000, 50), Balance(20_000, limit_cost=1_000_000, calls=1)))
        listen(CellStarted("root", 1, 1, "# wait\nwait_for_it()"))
        logging.getLogger("rlm_nb.staged").debug("about to %s", answer)
        logging.getLogger("another.library").debug("sent %s", answer)
        if mode == "refuse":
            raise SourceError(f"no such folder: {answer}")
        if mode == "break":
            raise BrokenPipeError(f"nobody expected {answer}")
        if mode == "stubborn":
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            listen(Notice("root", f"started {child.pid}."))
        listen(Notice("root", "staged."))
        if mode == "stubborn":
            time.sleep(600)
        if mode in ("wait", "late"):
            cancel.wait()
        if mode == "late":
            raise CancelledError(cancel.reason)
        outcome = {
            "answer": Outcome("completed", Answer.of(answer), "final", "FINAL was called"),
            "error": Outcome("error", Answer.of("there is no answer"), "none", "the service refused the key"),
        }.get(mode, Outcome("partial", Answer.of(answer), "stored", cancel.reason or "the money is spent"))
        root = AgentResult("root", outcome, Patch("…", ("a.py", "b.py")), Path("runs/x/root.ipynb"), 20_000, 20_000)
        listen(AgentEnded("root", root))
        balance = Balance(20_000, spent=Usage(1000, 50))
        return SimpleNamespace(
            root=root,
            balance=balance,
            repository="https://example.org/repo",
            checkout=None,
            folder=Path("runs/x"),
            patch_file=Path("runs/x/changes.patch"),
            faults=(),
        )

    with door(verbose) as keys:
        output = Path(rest[0]) if rest else None
        sys.exit(run_to_its_end(begin, view_for(Config(), keys, verbose), keys, output))


if __name__ == "__main__":
    main()
