"""`rlm-nb doctor`: what a run needs, each thing tried rather than looked up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlm_nb.cli.streams import write
from rlm_nb.notebook.wording import printable

if TYPE_CHECKING:
    from pydantic import SecretStr

    from rlm_nb.config import Config
    from rlm_nb.kernel.launch import Launcher

SCARCE = 1 << 30
"""Bytes of free disk below which a run may well end for want of it."""

State = Literal["ok", "warning", "error"]

SIGNS: dict[State, str] = {"ok": "✓", "warning": "!", "error": "✗"}


@dataclass(frozen=True)
class Finding:
    """One thing that a run needs.

    Args:
        what: Its name.
        state: `error` when no run can begin because of it.
        said: What was found, and what to do.
    """

    what: str
    state: State
    said: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model that is asked about.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Try what a run needs: git, a kernel, isolation, the model and its key and price, room on the disk.

    No key is printed, and no model is asked. The exit code is 1 when something keeps runs from beginning.
    """
    from rlm_nb.cli.door import door

    with door() as keys:
        from rlm_nb.config import load

        settings = load(config, {"runs": {"dir": runs_dir}, "model": {"name": model}})
        findings = []
        for finding in examine(settings, keys.secrets):
            findings.append(finding)
            if not as_json:
                write(f"{SIGNS[finding.state]} {finding.what}: {printable(keys.redact(finding.said))}")
        if as_json:
            write(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
        if any(finding.state == "error" for finding in findings):
            sys.exit(1)


def examine(config: Config, keys: Mapping[str, SecretStr]) -> Iterator[Finding]:
    """All findings, in the order in which a run meets them."""
    yield _found("git", _git)
    yield _found("kernel", lambda: _kernel(config))
    yield _found("isolation", lambda: _isolation(config))
    yield (model := _found("model", lambda: _model(config, keys)))
    if model.state == "ok":
        yield _found("price", lambda: _price(config, keys))
    yield _found("disk", lambda: _disk(config.runs.dir))


def _found(what: str, look: Callable[[], Finding | str]) -> Finding:
    from rlm_nb.errors import RLMError

    try:
        found = look()
    except RLMError as error:
        return Finding(what, "error", str(error))
    return found if isinstance(found, Finding) else Finding(what, "ok", found)


def _git() -> str:
    from rlm_nb.workspace import git

    git.require()
    return git.of_user(Path("/")).run("--version").decode("utf-8", "replace").strip()


def _kernel(config: Config) -> Finding:
    """Start one as an agent's is started, and run a cell in it."""
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.errors import BridgeError
    from rlm_nb.kernel.client import KernelClient
    from rlm_nb.records import JSON
    from rlm_nb.workspace.scratch import scratch

    def refuse(*_: object) -> JSON:
        raise BridgeError("nobody answers here")

    began = time.monotonic()
    with scratch() as folder, _launcher(config) as launcher:
        outputs = folder / "outputs"
        with KernelClient(
            launcher,
            folder,
            folder,
            lambda number: outputs / f"{number}.txt",
            config.kernel,
            dict,
            refuse,
            Cancellation(),
        ) as kernel:
            result = kernel.execute("FINAL(6 * 7)", Cancellation())
        warm = launcher.forkserver is not None
    took = f"answered its first cell after {time.monotonic() - began:.1f} s, imports included"
    if result.final is None or result.final.value != 42:
        return Finding("kernel", "error", f"its first cell ended as {result.status}: {result.error}")
    how = "forked from a warm process" if warm else "started cold"
    return Finding("kernel", "ok", f"Python {sys.version.split()[0]}, {how}, {took}")


def _launcher(config: Config) -> Launcher:
    from rlm_nb.kernel.launch import Launcher

    return Launcher(warm=config.kernel.start != "cold", isolation=config.isolation)


def _isolation(config: Config) -> Finding:
    """What the settings ask for, and what this machine can hold, found out by confining a process."""
    from rlm_nb.config import IsolationSettings
    from rlm_nb.errors import IsolationError
    from rlm_nb.kernel.isolation.choice import Isolation

    with Isolation(config.isolation) as isolation:
        choice = isolation.choice()
    if choice.level != "none":
        said = f"{choice.sentence}{''.join(f'; but {gap}' for gap in choice.gaps)}"
        return Finding("isolation", "warning" if choice.gaps else "ok", said)
    said = "none: cells run with your rights; work on what you trust, or in a container or a virtual machine"
    with Isolation(IsolationSettings(level="auto")) as isolation:
        try:
            return Finding("isolation", "warning", f"{said}; isolation.level: {isolation.choice().level} works here")
        except IsolationError as error:
            return Finding("isolation", "warning", f"{said}; {error}")


def _model(config: Config, keys: Mapping[str, SecretStr]) -> str:
    from rlm_nb.models import get_model

    get_model(config, keys)
    return f"{config.model.name}; keys that are set: {', '.join(sorted(keys)) or 'none'}"


def _price(config: Config, keys: Mapping[str, SecretStr]) -> str:
    from rlm_nb.models import get_model
    from rlm_nb.models.metered import price_for
    from rlm_nb.notebook.wording import money
    from rlm_nb.records import Usage

    million = 10**6
    price = price_for(get_model(config, keys), config.budget)
    read, written = price(Usage(input_tokens=million)), price(Usage(output_tokens=million))
    return f"{money(read)} for a million tokens read, {money(written)} for a million written"


def _disk(runs_dir: Path) -> Finding:
    import shutil
    import tempfile

    there = next(folder for folder in (runs_dir.absolute(), *runs_dir.absolute().parents) if folder.is_dir())
    free = {str(folder): shutil.disk_usage(folder).free for folder in (there, Path(tempfile.gettempdir()))}
    said = ", ".join(f"{size / 1e9:.1f} GB free in {folder}" for folder, size in free.items())
    return Finding("disk", "ok" if min(free.values()) >= SCARCE else "warning", said)
