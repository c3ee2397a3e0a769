"""How an agent is given its home: a worktree with a kernel in it, and somebody who answers what its cells ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlm_nb import live_specs
from rlm_nb.agent.subagents import Queries, Spawn
from rlm_nb.agent.transcript import RecordingKernel, Transcript
from rlm_nb.audience import both
from rlm_nb.bridge.server import Call, Handler
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.control import Control
from rlm_nb.errors import BridgeError, KernelStartError
from rlm_nb.home import Opened
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
from rlm_nb.ledger import BudgetFile, SharedBudget
from rlm_nb.merging.edits import Edits
from rlm_nb.models.metered import MeteredModel
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.protocols import Kernel, Listener, Price
from rlm_nb.rebuilding import Answers, GoingOn, rebuilt
from rlm_nb.recalling import BrokenOff, Recalled, recall, result_of
from rlm_nb.records import JSON, AgentResult, Attended, CellResult, Notice, Task
from rlm_nb.surroundings import budget, may_delegate, priced
from rlm_nb.workspace.scratch import scratch
from rlm_nb.workspace.source import Source
from rlm_nb.workspace.worktree import Worktree

Hands = Callable[[dict[str, JSON], Handler, Cancellation], AbstractContextManager[Kernel]]
"""A kernel of a person's own, in which he runs the root's cells himself. It is told what other kernels are told of
their agent when they begin, who answers what cells ask, and what cancels that."""


@dataclass(frozen=True)
class Opening:
    """Opens the homes of one run's agents: what all of them share.

    Args:
        folder: The run's.
        config: The settings.
        source: What worktrees are made from.
        launcher: Starts kernels.
        ledger: What `budget()` in a cell tells of.
        price: What calls cost.
        control: Lets people in.
        listen: Told of what happens, from the agents' threads.
        spawn: Runs a sub-agent to its end: on files as a commit has them, for a recorder's agent that asks.
        hands: Run the root's cells in a kernel that is not ours.
    """

    folder: Path
    config: Config
    source: Source
    launcher: Launcher
    ledger: BudgetFile | SharedBudget
    price: Price
    control: Control
    listen: Listener
    spawn: Callable[[str, Recorder, Task, Cancellation], AgentResult]
    hands: Hands | None = None

    def open(
        self,
        task: Task,
        base: str,
        model: MeteredModel,
        recorder: Recorder,
        begun: Callable[[], None],
        past: Recalled | None,
        asides: list[CellResult],
        cancel: Cancellation,
        stack: ExitStack,
        kernels: ExitStack,
    ) -> Opened:
        """An agent's worktree, with a kernel in it; from then on the agent counts as started."""
        try:
            folder = stack.enter_context(scratch(lambda text: self.listen(Notice(task.agent, text))))
        except OSError as error:
            raise KernelStartError(f"there is no place for its files: {error.strerror}: {error.filename}") from error
        checked_out: Future[Worktree] = Future()

        def greeting() -> dict[str, JSON]:
            tree = checked_out.result()
            return {
                "task": task.prompt,
                "subagents": may_delegate(task, self.config.rlm.max_depth),
                "context": str(task.context) if task.context else None,
                "objects": str(self.source.ctl / "objects"),
                "worktree": str(tree.path),
                "workdir": str(tree.workdir),
            }

        def prepare(cancel: Cancellation) -> Spawn:
            # All of a batch start from what the parent's files are now.
            commit = checked_out.result().snapshot(f"{task.agent} asks for sub-agents", cancel)
            return partial(self.spawn, commit, recorder)

        queries = Queries(task, self.config.rlm, prepare, model, self.config.model.max_tokens)
        transcript = stack.enter_context(Transcript(self.config.rlm.result_truncation_limit))
        answers = Answers(folder, lambda number: self.folder / "outputs" / f"{task.agent}-cell-{number}.txt")
        handle = answers.before(partial(self._answer, task, queries), transcript, recorder.called)
        if self.hands is not None and not task.depth:
            tree = stack.enter_context(self.source.present(task.agent))
            checked_out.set_result(tree)
            theirs = kernels.enter_context(self.hands(greeting(), handle, cancel))
            begun()
            return tree, RecordingKernel(theirs, transcript), queries, (), theirs.execute

        def attended(cell: CellResult) -> None:
            transcript.keep(cell)
            asides.append(cell)
            both(recorder.listen, self.listen)(Attended(task.agent, cell))

        client = KernelClient(
            self.launcher,
            folder,
            folder,
            answers.overflow,
            self.config.kernel,
            greeting,
            handle,
            cancel,
            (*self.source.borrowed, *([task.context] if task.context else [])),
            attended,
        )
        kernels.callback(client.close)
        kernels.callback(_give_up, checked_out)
        client.begin()  # it builds its shell while its files are written
        after = self.source.last(task.agent) if past else None
        tree = stack.enter_context(self.source.checkout(task.agent, folder, base, cancel, after=after))
        checked_out.set_result(tree)
        client.wait_until_ready()
        begun()
        recording = RecordingKernel(client, transcript)
        if past is None:
            kernels.enter_context(self._attachable(task.agent, client))
            return tree, recording, queries, (), client.look
        end = Edits(task.agent, base, past.end, self.source.ctl / "objects") if past.end else None
        differing = rebuilt(past.cells, end, client, answers, transcript, tree, cancel)
        queries.take_over(past.highest, {number: result_of(recall(path), "") for number, path in past.children.items()})

        @contextmanager
        def given(cell: BrokenOff) -> Iterator[None]:
            with answers.of(cell.calls, exact=True), queries.again(cell.agents, cell.replies):
                yield

        kernels.enter_context(self._attachable(task.agent, client))
        going_on = GoingOn(recording, [(cell.code, partial(given, cell)) for cell in past.broken_off])
        return tree, going_on, queries, differing, client.look

    @contextmanager
    def _attachable(self, agent: str, client: KernelClient) -> Iterator[None]:
        """While the block runs, people can be attached to the agent's kernel, if the settings let them."""
        if not self.config.kernel.attach:
            yield
            return
        with self.control.attachable(agent, client.attach), live_specs.offered(self.folder.resolve(), agent):
            yield

    def _answer(self, task: Task, queries: Queries, call: Call, cancel: Cancellation) -> JSON:
        """What a kernel may ask for, besides what its own client answers, the record, and the transcript."""
        if call.name == "rlm_query":
            return queries.rlm(call.arguments, cancel)
        if call.name == "llm_query":
            return queries.llm(call.arguments, cancel)
        if call.name == "budget":
            return budget(self.ledger.balance(), task.depth, self.config.rlm.max_depth)
        if call.name == "price":
            return priced(self.price, call.arguments)
        raise BridgeError(f"{call.name!r} is nothing that a kernel may ask for")


def _give_up(checked_out: Future[Worktree]) -> None:
    """Let nobody wait for files that will never be there."""
    if not checked_out.done():
        checked_out.set_exception(KernelStartError("there are no files for this kernel"))
