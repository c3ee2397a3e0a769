"""The kernel "RLM agent": a cell is a task, and the next one a word in the same conversation.

    python -m rlm_nb.jupyter.agent_kernel -f CONNECTION_FILE

This process is the controller, with the keys; what the agent writes runs in a kernel of the agent's own, below it.
"""

from __future__ import annotations

import inspect
import shlex
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

from rlm_nb import config
from rlm_nb.cancellation import Cancellation
from rlm_nb.cli import budget
from rlm_nb.cli.apply import bring_home
from rlm_nb.cli.door import Keys
from rlm_nb.cli.following import followed
from rlm_nb.cli.runs import find_run
from rlm_nb.cli.step import A_DAY
from rlm_nb.errors import ConfigError, RLMError
from rlm_nb.jupyter import view
from rlm_nb.jupyter.conversation import Conversation
from rlm_nb.jupyter.interrupts import Interrupts
from rlm_nb.kernel import environment
from rlm_nb.ledger import BudgetFile
from rlm_nb.notebook.tree import as_text, tree
from rlm_nb.protocols import Listener
from rlm_nb.records import Event, Iterated, Output

PREFIX = "%"
"""How the first line of a cell begins that is a command."""


class AgentKernel(Kernel):  # type: ignore[misc]
    """Agents as a kernel of Jupyter's."""

    implementation = "rlm-agent"
    implementation_version = version("rlm-nb")
    banner = (
        "RLM agent: a cell is a task on the files in this folder, and the next one a word in the same conversation.\n"
        "%help lists what else there is."
    )
    language_info = {  # noqa: RUF012 - as the base class has it
        "name": "markdown",
        "mimetype": "text/markdown",
        "file_extension": ".md",
        "codemirror_mode": "markdown",
        "version": implementation_version,
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keys = Keys({})
        self._conversation: Conversation | None = None
        self._model: str | None = None
        self._where = "."
        self._steps = False
        self._last: Path | None = None
        self._payload: list[dict[str, Any]] = []

    def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, Any] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """Do what a cell says, and wait for the end of it."""
        self._payload = []
        interrupts = Interrupts()
        try:
            if code.strip() and not silent:
                self._keys = Keys({**self._keys.secrets, **config.secrets()})
                environment.hide(config.KEYS)
                with interrupts:
                    self._do(code, interrupts)
            if interrupts.signal:
                return self._failed(KeyboardInterrupt("stopped; the next cell goes on with what there is"))
        except RLMError as error:
            return self._failed(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the kernel goes on, and its person is told
            return self._failed(error, traceback.format_exc().splitlines())
        expressions = {
            name: {"status": "error", "ename": "", "evalue": "", "traceback": []} for name in user_expressions or {}
        }
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": self._payload,
            "user_expressions": expressions,
        }

    def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        """Commands, and the names of files."""
        before, found = code[:cursor_pos], list[str]()
        word = before[max(before.rfind(space) for space in " \n\t") + 1 :]
        if before.startswith(PREFIX) and word == before:
            found = sorted(f"{PREFIX}{name}" for name in _COMMANDS if name.startswith(word[len(PREFIX) :]))
        else:
            folder, _, name = word.rpartition("/")
            below = Path(f"{folder}/" if "/" in word else ".")
            with suppress(OSError):
                paths = sorted(path for path in below.iterdir() if word and path.name.startswith(name))
                found = [f"{path}/" if path.is_dir() else str(path) for path in paths]
        return {
            "status": "ok",
            "matches": found,
            "cursor_start": cursor_pos - len(word),
            "cursor_end": cursor_pos,
            "metadata": {},
        }

    def do_inspect(self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()) -> dict[str, Any]:
        """What a command does."""
        name = code.split(None, 1)[0].removeprefix(PREFIX) if code.startswith(PREFIX) else ""
        found = name in _COMMANDS
        data = {"text/plain": _help(name)} if found else {}
        return {"status": "ok", "found": found, "data": data, "metadata": {}}

    def do_is_complete(self, code: str) -> dict[str, Any]:
        """Any text is a task."""
        return {"status": "complete"}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the conversation, with its agents and their kernels."""
        self._leave()
        return {"status": "ok", "restart": restart}

    # What a cell can be

    def _do(self, code: str, interrupts: Interrupts) -> None:
        first, _, rest = code.strip("\n").partition("\n")
        if not first.startswith(PREFIX):
            self._say(code, interrupts)
            return
        name, _, arguments = first[len(PREFIX) :].partition(" ")
        if name not in _COMMANDS:
            raise ConfigError(f"{PREFIX}{name} is no command; {PREFIX}help lists them")
        _COMMANDS[name](self, arguments.strip(), rest, interrupts)

    def _say(self, text: str, interrupts: Interrupts) -> None:
        """A task; a word to the agent that has answered, or whose work was ended; or one on what it proposes."""
        if self._conversation is None or not self._conversation.goes_on:
            limits = {"global_timeout": A_DAY}
            settings = config.load(flags={"model": {"name": self._model}, "rlm": limits})
            before = self._conversation
            if before is None:
                self._conversation = Conversation.begin(text, self._where, settings, self._keys)
            else:
                self._conversation = Conversation.resume(before.folder, text, self._keys)
            self._conversation.steps = self._steps
            self._work(self._conversation.propose, interrupts)
        else:
            conversation = self._conversation
            self._work(lambda: conversation.say(text), interrupts)

    def _run(self, arguments: str, code: str, interrupts: Interrupts) -> None:
        """%run, with cells below it or none: run what the agent proposes, or these in its place."""
        conversation = self._going_on()
        self._work(lambda: conversation.run(code), interrupts)

    def _step(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%step, with a task below it or none: from now on, show what the agent would run, and wait for %run."""
        self._set_steps(True)
        self._after_a_mode(text or arguments, interrupts)

    def _auto(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%auto, with a task below it or none: run what the agent proposes at once, from now on. It is the default."""
        self._set_steps(False)
        self._after_a_mode(text or arguments, interrupts)

    def _set_steps(self, steps: bool) -> None:
        self._steps = steps
        if self._conversation is not None:
            self._conversation.steps = steps

    def _after_a_mode(self, text: str, interrupts: Interrupts) -> None:
        conversation = self._conversation
        if text.strip():
            self._say(text, interrupts)
        elif conversation is not None and conversation.proposes:
            if self._steps:
                self._work(lambda: conversation.run(""), interrupts)
            else:
                self._work(conversation.go_on, interrupts)

    def _choose(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%model NAME: the model of the next conversation; without a name, which one that is."""
        if arguments:
            config.load(flags={"model": {"name": arguments}})
            self._model = arguments
        name = config.load(flags={"model": {"name": self._model}}).model.name
        later = (
            " from the next conversation on; %new begins one" if self._conversation is not None and arguments else ""
        )
        self._print(f"{name}{later}")

    def _new(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%new [FOLDER]: end this conversation; the next cell begins another one, on that folder, repository or URL."""
        self._leave()
        self._conversation = None
        self._where = arguments or self._where

    def _show_budget(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%budget: what the conversation has spent, and what is left."""
        path = self._folder() / "budget.json"
        self._print("\n".join(budget.lines(budget.facts(path, BudgetFile.look(path), time.time()))))

    def _show_tree(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%tree: the agents, how each one stands, and its notebook."""
        self._print(as_text(tree(self._folder())))

    def _apply(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%apply [--agent AGENT] [--branch NAME]: merge what the agent has changed into your files, or a new branch."""
        words = shlex.split(arguments)
        given = dict(zip(words[::2], words[1::2], strict=False))
        if len(words) % 2 or given.keys() - {"--agent", "--branch"}:
            raise ConfigError(_help("apply"))
        folder = self._folder()
        self._leave()  # what it has changed is known at its end; the next word goes on all the same
        said, files = bring_home(folder, given.get("--agent", "root"), given.get("--branch"))
        self._print("\n".join([said, *files]))

    def _show_help(self, arguments: str, text: str, interrupts: Interrupts) -> None:
        """%help: this."""
        self._print("\n".join(_help(name) for name in _COMMANDS))

    # How they are done

    def _work(self, act: Callable[[], None], interrupts: Interrupts) -> None:
        """Let the agent work, and show that, until it has answered, proposes something, or ends."""
        conversation = self._conversation
        assert conversation is not None
        shown = _Streaming(self, conversation.max_iterations)

        def begin(listen: Listener, cancel: Cancellation) -> None:
            with conversation.heard_by(listen), cancel.calling(lambda: conversation.stop(cancel.reason)):
                with suppress(RLMError):
                    shown.recorded_in(conversation.folder)
                act()

        try:
            followed(begin, shown, interrupts)
        except BaseException:
            if not conversation.has_begun:
                self._conversation = None
            raise
        self._last = conversation.folder
        if (result := conversation.result) is not None:
            self._picture(view.ended(result, self._keys.redact, "%apply"))
        elif (answer := conversation.answered) is not None:
            self._picture(view.answered(answer, conversation.notebook, self._keys.redact))
        elif (proposal := conversation.proposal) is not None:
            self._picture(view.proposed(proposal, self._keys.redact, "%run"))
            if proposal.code:
                text = "\n".join([f"{PREFIX}run", "\n\n".join(proposal.code)])
                self._payload.append({"source": "set_next_input", "text": text, "replace": False})

    def _going_on(self) -> Conversation:
        if self._conversation is None or not self._conversation.goes_on:
            raise ConfigError("no agent is at work: a cell with a task starts one")
        return self._conversation

    def _folder(self) -> Path:
        if self._conversation is not None and self._conversation.has_begun:
            return self._conversation.folder
        return self._last or find_run("last", config.load().runs.dir)

    def _leave(self) -> None:
        if self._conversation is not None:
            self._conversation.leave()

    def _print(self, text: str, stream: str = "stdout") -> None:
        self.send_response(
            self.iopub_socket, "stream", {"name": stream, "text": self._keys.redact(text).rstrip("\n") + "\n"}
        )

    def _picture(self, picture: Mapping[str, Any]) -> Callable[[view.Picture], None]:
        """Show something; returns what puts another thing in its place."""
        name = uuid.uuid4().hex

        def send(kind: str, data: Mapping[str, Any]) -> None:
            content = {"data": data, "metadata": {}, "transient": {"display_id": name}}
            self.send_response(self.iopub_socket, kind, content)

        send("display_data", picture)
        return lambda another: send("update_display_data", another)

    def _failed(self, error: BaseException, lines: list[str] | None = None) -> dict[str, Any]:
        name, said = type(error).__name__.lstrip("_"), self._keys.redact(str(error))
        trace = [self._keys.redact(line) for line in lines or [f"{name}: {said}"]]
        content = {"ename": name, "evalue": said, "traceback": trace}
        self.send_response(self.iopub_socket, "error", content)
        return {"status": "error", "execution_count": self.execution_count, **content}


class _Streaming(view.NotebookView):
    """Shows a run, and below it each iteration of the root as it is complete."""

    def __init__(self, kernel: AgentKernel, max_iterations: int) -> None:
        super().__init__(kernel._picture, max_iterations, kernel._keys.redact)
        self._kernel = kernel

    def _take(self, now: float, event: Event | str) -> None:
        super()._take(now, event)
        if isinstance(event, Iterated) and event.agent == "root":
            self._kernel._picture(view.iteration(event.iteration, self._redact))
            for cell in event.iteration.cells:
                self._kernel._picture(view.code(cell.code, self._redact))
                for output in cell.outputs:
                    self._put_out(output)

    def _put_out(self, output: Output) -> None:
        """What a cell of the agent's put out: text as text, anything else so that it acts in no front end."""
        kind = output["output_type"]
        if kind == "stream":
            self._kernel._print(output["text"], output["name"])
        elif kind == "error":
            self._kernel._print("\n".join(output["traceback"]), "stderr")
        else:
            self._kernel._picture(view.inert_output(output, self._redact))


Command = Callable[[AgentKernel, str, str, Interrupts], None]

_COMMANDS: dict[str, Command] = {
    "step": AgentKernel._step,
    "run": AgentKernel._run,
    "auto": AgentKernel._auto,
    "model": AgentKernel._choose,
    "budget": AgentKernel._show_budget,
    "tree": AgentKernel._show_tree,
    "apply": AgentKernel._apply,
    "new": AgentKernel._new,
    "help": AgentKernel._show_help,
}


def _help(name: str) -> str:
    return " ".join((inspect.getdoc(_COMMANDS[name]) or "").split())


class AgentKernelApp(IPKernelApp):  # type: ignore[misc]
    """Starts it."""

    name = "rlm-agent"
    kernel_class = AgentKernel


if __name__ == "__main__":
    AgentKernelApp.launch_instance()
