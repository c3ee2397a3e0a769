"""Goes on with a recorded run: from where it was broken off, or from an earlier iteration as a new run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from rlm_nb.audience import Audience, ignore
from rlm_nb.budgeting import open_ledger
from rlm_nb.cancellation import Cancellation, within
from rlm_nb.config import Config, load
from rlm_nb.controller import Continuation, Further, Reviewer, Run
from rlm_nb.errors import ConfigError, RunFolderError
from rlm_nb.kernel.launch import Launcher
from rlm_nb.models import get_model
from rlm_nb.models.metered import price_for
from rlm_nb.protocols import Listener, Model
from rlm_nb.pruning import prune
from rlm_nb.recalling import unsettled
from rlm_nb.records import Notice, Task, Usage
from rlm_nb.run_folder import State, goes_on, run_folder, state_of
from rlm_nb.surroundings import readable
from rlm_nb.workspace.scratch import remove_abandoned
from rlm_nb.workspace.source import Source


@contextmanager
def resume(
    folder: Path,
    config: Config,
    *,
    secrets: Mapping[str, SecretStr] | None = None,
    listen: Listener = ignore,
    cancel: Cancellation | None = None,
    model: Model | None = None,
    said: Mapping[str, str] | None = None,
    again: bool = True,
    review: Reviewer | None = None,
    further: Further | None = None,
) -> Iterator[Run]:
    """Go on with a run that was killed, stopped, or ended by a limit, in its own folder; or completed, with a new word.

    Kernels are built anew by running the recorded cells again, with the answers that they got; what was finished, and
    what was answered, is not paid for a second time. Time counts anew, all else from where it stood.

    Args:
        folder: The run's folder.
        config: The settings; see `settings_of`.
        secrets, listen, cancel, model: See `controller.run`.
        said: What a person says to agents, by their paths in the tree.
        again: Whether cells that were stopped with the run are run again.
        review, further: See `controller.open_run`.

    Raises:
        RunFolderError: The run goes on, or has completed its task, or its folder is none.
        RLMError: What else keeps it from going on; nothing of the record is lost.
    """
    folder = folder.absolute()
    state = state_of(folder)
    if goes_on(folder):
        raise RunFolderError(f"the run {folder.name} has not ended: there is nothing to resume")
    if state.status == "completed" and "root" not in (said or {}):
        raise RunFolderError(f"the run {folder.name} has completed its task; `rlm-nb fork` goes on from a part of it")
    ended = "It had completed its task" if state.status == "completed" else f"It was broken off ({state.how})"
    notice = f"{ended}, and goes on since {_now()}"
    with ExitStack() as stack:
        going_on = _GoingOn(stack, config, secrets, listen, cancel, model)
        run = going_on.run(folder, state, Continuation(notice, said or {}, again), unsettled(folder))
        run.review, run.further = review, further
        yield run


@contextmanager
def fork(
    folder: Path,
    config: Config,
    agent: str,
    iteration: int,
    *,
    secrets: Mapping[str, SecretStr] | None = None,
    listen: Listener = ignore,
    cancel: Cancellation | None = None,
    model: Model | None = None,
    said: str = "",
) -> Iterator[Run]:
    """Begin a new run that shares another one's record up to an iteration of one of its agents, and goes on from there.

    It has a budget of its own, of which what is shared has taken nothing.

    Args:
        folder: The folder of the run.
        config: The settings; see `settings_of`. The new run is recorded in `config.runs.dir`.
        agent: The agent's path in the tree. Agents above it stand in the cell that they had started it from.
        iteration: The last iteration of it that is shared; 0 for none.
        secrets, listen, cancel, model: See `controller.run`.
        said: What a person says to the agent now.

    Raises:
        RLMError: What keeps the new run from starting; it leaves nothing behind.
    """
    folder = folder.absolute()
    state = state_of(folder)
    with ExitStack() as stack:
        going_on = _GoingOn(stack, config, secrets, listen, cancel, model)
        new = stack.enter_context(run_folder(config, keep=lambda: going_on.saw_a_turn))
        notice = f"It shares the run {folder.name} up to iteration {iteration} of {agent}, and goes on since {_now()}"
        prune(folder, new, agent, iteration, notice)
        yield going_on.run(new, state, Continuation(notice, {agent: said} if said else {}), None)


class _GoingOn:
    """What a run needs that goes on from a record; all of it is closed by `stack`."""

    def __init__(
        self,
        stack: ExitStack,
        config: Config,
        secrets: Mapping[str, SecretStr] | None,
        listen: Listener,
        cancel: Cancellation | None,
        model: Model | None,
    ) -> None:
        self._stack, self._config = stack, config
        self._launcher = stack.enter_context(Launcher(warm=config.kernel.start != "cold", isolation=config.isolation))
        self._model = model or get_model(config, secrets or {})
        self._price = price_for(self._model, config.budget)
        self._cancel = stack.enter_context(within(cancel or Cancellation(), config.rlm.global_timeout))
        self._audience = Audience(listen, self._cancel)
        stack.callback(self._audience.check)
        remove_abandoned()

    @property
    def saw_a_turn(self) -> bool:
        """Whether there is something new to keep."""
        return self._audience.saw_a_turn

    def run(
        self, folder: Path, state: State, continuing: Continuation, known: Mapping[str, tuple[int, Usage]] | None
    ) -> Run:
        """The run in a folder with a record; `known` is what its budget is to know, `None` where it has none yet."""
        source = Source.reopen(folder, state.start, self._config.workspace)
        ledger = open_ledger(self._config, folder, self._audience, known)
        for text in (continuing.notice, self._launcher.confinement().notice):
            self._audience(Notice("root", text))
        return self._stack.enter_context(
            Run(
                task=Task(state.task, context=readable(state.context) if state.context is not None else None),
                folder=folder,
                config=self._config,
                source=source,
                model=self._model,
                price=self._price,
                ledger=ledger,
                launcher=self._launcher,
                listen=self._audience,
                cancel=self._cancel,
                continuing=continuing,
            )
        )


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def settings_of(folder: Path, flags: Mapping[str, Mapping[str, Any]]) -> Config:
    """The settings that a run had, save those that flags set.

    A login in `model.base_url` is in no record: it is taken from where settings are read now.

    Raises:
        ConfigError: They cannot be read, or a flag has a wrong value.
    """
    path = folder / "config.yaml"
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, settings in flags.items():
            given = {name: value for name, value in settings.items() if value is not None}
            values[section] = {**values.get(section, {}), **given}
        config = Config.model_validate(values)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: these are no settings: {error}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ConfigError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    now = load().model
    if config.model.base_url and now.base_url and now.model_dump(mode="json")["base_url"] == config.model.base_url:
        return config.model_copy(update={"model": config.model.model_copy(update={"base_url": now.base_url})})
    return config
