"""`rlm-nb task`: run a bounded task on a text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from rlm_nb.cli.streams import stdout_put_aside, tell, write, write_file
from rlm_nb.notebook.wording import duration, headline, money, plural

if TYPE_CHECKING:
    from rlm_nb.cli.door import Keys
    from rlm_nb.records import Access, Notice, Status, Subcall
    from rlm_nb.task_run import TaskResult

GROUP = "rlm_nb.tasks"
"""The entry points under which packages offer their tasks, a function each."""

EXIT_CODE: dict[Status, int] = {"completed": 0, "error": 1, "partial": 3}


FLAGS = {
    "model.name": "--model",
    "runs.dir": "--runs-dir",
    "tasks.max_cost": "--cost",
    "tasks.max_runtime": "--timeout",
    "tasks.max_tokens_per_subcall": "--max-tokens",
}
"""What errors call a flag, by its setting."""


def task(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The text; it is looked into, never loaded as a whole.")],
    name: Annotated[
        str,
        typer.Option("--task", "-t", metavar="NAME", help="A task by its name, or a function as module:function."),
    ] = "analyze_document",
    question: Annotated[
        str | None, typer.Option("--question", "-q", metavar="TEXT", help="For tasks that answer a question.")
    ] = None,
    cost: Annotated[float | None, typer.Option(metavar="USD", help="US dollars that it may cost.")] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Seconds that it may take.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Tokens of one question and its answer.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that answers.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result there instead of stdout.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the run is recorded.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each look at the text, and tracebacks of errors.")
    ] = False,
) -> None:
    """Run a bounded task on a text: Python narrows it down, a model is asked about small pieces of it.

    The result goes to stdout as JSON: status, result, error (unless it is completed), budget_summary.
    """
    from rlm_nb.cli.door import door

    with door(verbose) as keys, stdout_put_aside() as out:
        from rlm_nb.cli.run import check_writable
        from rlm_nb.config import load
        from rlm_nb.task_run import run_task

        check_writable(output)
        check_text(file)
        limits = {"max_cost": cost, "max_runtime": timeout, "max_tokens_per_subcall": max_tokens}
        settings = load(config, {"model": {"name": model}, "tasks": limits, "runs": {"dir": runs_dir}}, FLAGS)
        function = _with_question(find_task(name), name, question)
        limit, seconds = settings.tasks.max_cost, duration(settings.tasks.max_runtime)
        at_most = "no cost limit" if limit is None else money(round(limit * 1e6))
        tell(
            f"{file}: {name} with {settings.model.name}; at most {at_most}, {seconds}; recorded in {settings.runs.dir}"
        )
        begin = partial(
            run_task,
            function,
            file,
            settings=settings,
            keys=keys.secrets,
            listen=partial(_follow, keys=keys, verbose=verbose),
        )
        sys.exit(_run_to_its_end(begin, output or out))


def check_text(file: Path) -> None:
    """Refuse an empty file: questions about nothing cost as much. What cannot be read is found when it is opened."""
    from rlm_nb.errors import ContextError

    with suppress(OSError, ValueError):
        if file.is_file() and file.stat().st_size == 0:
            raise ContextError(f"{file}: there is no text in it")


def find_task(name: str) -> Callable[..., Any]:
    """The task that a person means: one that some package offers, or `module:function`, from the current folder too.

    Raises:
        ConfigError: There is none.
    """
    from rlm_nb.errors import ConfigError

    offers = {offer.name: offer for offer in entry_points(group=GROUP)}
    if ":" not in name and name not in offers:
        known = ", ".join(sorted(offers))
        raise ConfigError(f"there is no task {name!r}; there are {known}, and yours as module:function")
    offer = offers.get(name) or EntryPoint(name, name, GROUP)
    module, _, attribute = offer.value.partition(":")
    with _current_folder_first():
        try:
            found = import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"the task {name} cannot be loaded: {error}") from error
        except (Exception, SystemExit) as error:
            raise ConfigError(f"the task {name} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ConfigError(f"the task {name} is no function")
    return found


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """While the block runs, modules of the current folder are found, as `python -m` would find them."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _with_question(function: Callable[..., Any], name: str, question: str | None) -> Callable[..., Any]:
    if question is None:
        return function
    try:
        takes_one = "question" in signature(function).parameters
    except ValueError:  # some functions of C do not tell
        takes_one = False
    if not takes_one:
        raise typer.BadParameter(f"the task {name} answers no question", param_hint="--question")
    return partial(function, question=question)


def _run_to_its_end(begin: Callable[..., TaskResult], output: Path | TextIO) -> int:
    """Run, report, hand over the result; returns the exit code."""
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.cli.signals import Interruption

    cancel = Cancellation()
    # In a thread of its own: this one is the one that signals reach.
    with Interruption() as interruption, ThreadPoolExecutor(1, "rlm-run") as thread:
        running = thread.submit(begin, cancel=cancel)
        while wait([running], 0.05).not_done:
            if interruption.signal and not cancel.is_cancelled():
                cancel.cancel(interruption.reason)
        result = running.result()
        _report(result)
        delivered = _deliver(result, output)
        return interruption.exit_code or EXIT_CODE[result["status"] if delivered and not result.faults else "error"]


def _follow(told: Access | Subcall | Notice, *, keys: Keys, verbose: bool) -> None:
    """Say what the task does, on standard error."""
    from rlm_nb.records import Access, Notice

    if isinstance(told, Notice):
        tell(keys.redact(told.text))
    elif not isinstance(told, Access):
        where = (
            f"{told.basis.start:,}–{told.basis.start + told.basis.length:,}" if told.basis.source else "its own text"
        )
        said = f"failed: {told.error}" if told.error else headline(told.reply)
        again = f" (as subcall {told.same_as})" if told.same_as is not None else ""
        tell(keys.redact(f"{headline(told.prompt)[:60]} · {where}{again}: {said[:100]}"))
    elif verbose or told.operation == "search":
        what = f" for {told.detail!r}" if told.detail else f" {told.start:,}–{told.start + told.length:,}"
        tell(keys.redact(f"{told.operation}{what}"))


def _report(result: TaskResult) -> None:
    summary = result["budget_summary"]
    took = [
        money(round(summary["total_cost_usd"] * 1e6)),
        plural(summary["total_calls"], "call"),
        duration(summary["elapsed_seconds"]),
    ]
    error = f": {headline(result['error'])}" if "error" in result else ""
    tell(f"{result['status']}{error}")
    for fault in result.faults:
        tell(f"Error: {fault}")
    if result.folder is not None:
        tell(f"notebook: {result.folder / 'task.ipynb'}")
    tell(f"took:     {', '.join(took)}")


def _deliver(result: TaskResult, output: Path | TextIO) -> bool:
    """Hand over the result; whether that went well. It is in the run's folder in any case."""
    from rlm_nb.task_run import as_json

    try:
        if isinstance(output, Path):
            write_file(as_json(result) + "\n", output)
        else:
            write(as_json(result), output)
    except OSError as error:
        place = output if isinstance(output, Path) else "stdout"
        tell(f"Error: the result could not be written to {place}: {error.strerror or error}")
        return False
    return True
