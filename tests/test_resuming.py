"""A run goes on where it was broken off: what it had is there, what it had paid for is not asked again."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.controller import RunResult, run
from rlm_nb.errors import ConfigError, RunFolderError
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.journal import read_journal
from rlm_nb.notebook.reader import read
from rlm_nb.records import CellStarted, Event, Iterated, Replied, Reply, Request
from rlm_nb.resuming import fork, resume, settings_of
from tests.test_replaying import contents, python
from tests.whole_runs.conftest import check_record

GONE = 2**22
"""The number of no process."""


class Asked:
    """A scripted model, and all that it was asked."""

    def __init__(self, replies: list[Any], prompts: list[tuple[str, Any]] | None = None) -> None:
        self._model = ScriptedModel.of({"root": replies}, prompts or (), price={"input": 3, "output": 15})
        self.name, self.price = self._model.name, self._model.price
        self.requests: list[Request] = []
        self.during: Callable[[Request], None] = lambda request: None

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        self.requests.append(request)
        self.during(request)
        return self._model.complete(request, cancel, on_text)

    @property
    def calls(self) -> Counter[tuple[str, int, str]]:
        """How often each thing was asked; of an agent's turn, the agent and the turn count."""
        return Counter((one.agent, one.turn, "" if one.turn else one.messages[-1].content) for one in self.requests)


def begun(tmp_path: Path, repository: Path, model: Any, listen: Any = None, **settings: Any) -> RunResult:
    config = Config.model_validate({"runs": {"dir": tmp_path / "runs"}, **settings})
    cancel = Cancellation()
    more = {"listen": lambda event: listen(event, cancel)} if listen else {}
    return run("Work", repository, config, model=model, cancel=cancel, **more)


def resumed(folder: Path, model: Any, **flags: Any) -> RunResult:
    with resume(folder, settings_of(folder, flags), model=model) as going:
        for _ in going.iterations():
            pass
    return going.result


def test_a_limit_is_raised_and_the_run_goes_on(tmp_path: Path, repository: Path) -> None:
    """Variables, files and the conversation are there, byte for byte; the last turn of then was not the last one."""
    replies = [
        python("x = 41\nedit_file('README.md', 'Says hello.', 'Said hello.')"),
        python("print(x)"),
        python("FINAL('as far as I came')"),
        python("FINAL([x + 1, Path('README.md').read_text()])"),
    ]
    model = Asked(replies)
    first = begun(tmp_path, repository, model, rlm={"max_iterations": 2})
    assert (first.root.status, first.root.answer.value) == ("partial", "as far as I came")
    spent = first.balance.spent_cost
    result = resumed(first.folder, model, rlm={"max_iterations": 9})
    assert (result.root.status, result.root.answer.value) == ("completed", [42, "# greeting\n\nSaid hello.\n"])
    assert set(model.calls.values()) == {1}
    for earlier, later in zip(model.requests, model.requests[1:], strict=False):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert later.system == earlier.system
    told = model.requests[-1].messages[-1].content
    assert "goes on now" in told
    assert "All of it came out as before." in told
    assert result.balance.calls == 4
    assert result.balance.spent_cost > spent
    assert result.patch_file is not None
    assert "+Said hello." in result.patch_file.read_text()
    assert [turn.number for turn in read(result.root.notebook).iterations] == [1, 2, 3, 4]
    check_record(result.folder)


def test_without_more_room_the_answer_stays(tmp_path: Path, repository: Path) -> None:
    """Resumed under the same limit, a run keeps the answer of its last turn rather than lose it."""
    model = Asked([python("x = 1"), python("FINAL('so far')"), "No cell, no answer."])
    first = begun(tmp_path, repository, model, rlm={"max_iterations": 1})
    result = resumed(first.folder, model)
    assert (result.root.status, result.root.answer.value) == ("partial", "so far")
    check_record(result.folder)


def test_a_stopped_cell_runs_again_and_its_sub_agents_go_on(tmp_path: Path, repository: Path) -> None:
    """What it had been answered it is answered again; a sub-agent in mid-flight goes on, a finished one is done."""
    stopping = tmp_path / "stop"
    waits = f"import time\nwhile not Path({str(stopping)!r}).exists(): time.sleep(0.05)"
    model = Asked(
        [
            python(
                "asked = llm_query('Which?')\nedit_file('README.md', 'Says', 'Said')\n"
                "results = rlm_query_batched(['quick', 'slow'])\nprint(asked, *results)"
            ),
            python("results[0].apply()\nFINAL([str(asked), *map(str, results), Path('quick.txt').read_text()])"),
        ],
        [
            ("Which", "that"),
            ("quick", [python("Path('quick.txt').write_text('q')"), python("FINAL('quick')")]),
            ("slow", [python("seen = 7"), python(waits), python("FINAL(f'slow {seen}')")]),
        ],
    )
    quick_ended = threading.Event()

    def stop(event: Event, cancel: Cancellation) -> None:
        if event.agent == "root.1" and type(event).__name__ == "AgentEnded":
            quick_ended.set()
        if isinstance(event, CellStarted) and (event.agent, event.number) == ("root.2", 2):
            threading.Thread(target=lambda: (quick_ended.wait(30), cancel.cancel("the test said so"))).start()

    seeing = {"read": [tmp_path]}
    first = begun(tmp_path, repository, model, stop, isolation=seeing)
    assert (first.root.status, first.root.outcome.stopped) == ("partial", True)
    before = model.calls.copy()
    stopping.touch()
    result = resumed(first.folder, model, isolation=seeing)
    assert result.root.answer.value == ["that", "quick", "slow 7", "q"]
    assert result.root.status == "completed"
    assert set(model.calls.values()) == {1}
    assert {agent for agent, *_ in model.calls - before} == {"root.2", "root"}
    assert [child.status for child in result.root.children] == ["completed", "completed"]
    assert result.balance.sandboxes == 3
    check_record(result.folder)


def test_what_could_not_be_rebuilt_is_named(tmp_path: Path, repository: Path) -> None:
    """A cell that took too long is not run again, one that comes out otherwise is named, files are put back."""
    flag = tmp_path / "flag"
    model = Asked(
        [
            python("import time\nPath('half.txt').write_text('written')\ntime.sleep(60)"),
            python(f"print(Path({str(flag)!r}).exists())"),
            python("FINAL(Path('half.txt').read_text())"),
            python("FINAL(Path('half.txt').read_text())"),
        ]
    )
    seeing = {"read": [tmp_path]}
    limits = {"rlm": {"max_iterations": 2}, "kernel": {"cell_timeout": 1}}
    first = begun(tmp_path, repository, model, **limits, isolation=seeing)
    flag.touch()
    result = resumed(first.folder, model, rlm={"max_iterations": 9}, isolation=seeing)
    told = model.requests[-1].messages[-1].content
    assert "Cell 1 took too long then, and was not run again" in told
    assert "Cell 2 put out something else than what was shown then." in told
    assert "put back as you had left them: half.txt" in told
    assert result.root.answer.value == "written"


def test_a_crash_between_reply_and_notebook_asks_nothing_twice(tmp_path: Path, repository: Path) -> None:
    """The last reply is only in the journal: its cells run, and it is charged as what it took, not as reserved."""
    model = Asked([python("x = 2"), python("FINAL(x)")])
    crashed = tmp_path / "crashed"

    def crash(event: Event, cancel: Cancellation) -> None:
        if isinstance(event, Replied) and event.number == 2:
            # What a SIGKILL would have left a moment ago: the reply came, and neither was it charged nor is it in the
            # notebook.
            for name in ("budget.json", "root.ipynb"):
                shutil.copy(tmp_path / name, crashed / name)
            shutil.copy(folder() / ".root.journal", crashed)

    def folder() -> Path:
        return next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())

    def copy(request: Request) -> None:
        if request.turn == 2:
            shutil.copytree(folder(), crashed)
            for name in ("budget.json", "root.ipynb"):
                shutil.copy(folder() / name, tmp_path)

    model.during = copy
    first = begun(tmp_path, repository, model, crash)
    crashed = as_if_killed(crashed, first.id)
    leases = json.loads((crashed / "budget.json").read_text())["leases"]
    assert [lease["kind"] for lease in leases.values()].count("call") == 1
    assert len(read(crashed / "root.ipynb").iterations) == 1
    result = resumed(crashed, model)
    assert (result.root.status, result.root.answer.value) == ("completed", 2)
    assert len(model.requests) == 2
    assert result.balance.spent_cost == first.balance.spent_cost
    check_record(crashed)


def as_if_killed(folder: Path, run: str) -> Path:
    """A copy of a run's folder, as that of a process which is gone."""
    folder = folder.rename(folder.with_name(run))
    for name, died in (("run.json", {"pid": GONE}), ("budget.json", {})):
        state = json.loads((folder / name).read_text()) | died
        for lease in state.get("leases", {}).values():
            lease["pid"] = GONE
        (folder / name).write_text(json.dumps(state))
    return folder


def test_an_agent_that_was_done_leaves_its_files(tmp_path: Path, repository: Path) -> None:
    """Killed between its last cell and its end: nobody is asked anything, and the edits are there."""
    model = Asked([python("edit_file('README.md', 'Says', 'Said')\nFINAL('done')")])
    crashed = tmp_path / "crashed"

    def crash(event: Event, cancel: Cancellation) -> None:
        if isinstance(event, Iterated):
            shutil.copytree(next((tmp_path / "runs").glob("*-*-*")), crashed)

    first = begun(tmp_path, repository, model, crash)
    result = resumed(as_if_killed(crashed, first.id), model)
    assert (result.root.status, result.root.answer.value) == ("completed", "done")
    assert result.root.patch.files == first.root.patch.files == ("README.md",)
    assert len(model.requests) == 1
    check_record(result.folder)


def test_answers_of_a_batch_that_was_cut_short_are_kept(tmp_path: Path, repository: Path) -> None:
    """What a model had answered is not asked again, in whichever cell of the reply it was; the rest is."""
    model = Asked(
        [
            python("first = llm_query_batched(['a', 'b'])", "second = llm_query_batched(['c', 'stop'])"),
            python("FINAL([*map(str, first), *map(str, second)])"),
        ],
        [("^(a|b|c)$", "yes"), ("^stop$", "go")],
    )
    crashed, answered = tmp_path / "crashed", threading.Event()

    def crash(request: Request) -> None:
        if request.turn == 0 and request.messages[-1].content == "stop":
            folder = next((tmp_path / "runs").glob("*-*-*"))
            while len(read_journal(folder / "root.ipynb").asides) < 3:
                answered.wait(0.01)
            shutil.copytree(folder, crashed)

    model.during = crash
    first = begun(tmp_path, repository, model)
    model.during = lambda request: None
    model.requests.clear()
    result = resumed(as_if_killed(crashed, first.id), model)
    assert result.root.answer.value == ["yes", "yes", "yes", "go"]
    assert model.calls == {("root", 0, "stop"): 1, ("root", 2, ""): 1}
    assert result.balance.calls == 7  # with the one of which nobody knows
    check_record(result.folder)


def test_who_is_done_or_at_work_is_not_resumed(tmp_path: Path, repository: Path) -> None:
    """A run that has completed says so, and one that goes on is left alone."""
    model = Asked([python("FINAL(1)")])
    refused: list[str] = []

    def meanwhile(event: Event, cancel: Cancellation) -> None:
        if isinstance(event, Replied):
            folder = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
            with pytest.raises(RunFolderError) as caught:
                resumed(folder, model)
            refused.append(str(caught.value))

    done = begun(tmp_path, repository, model, meanwhile)
    assert "has not ended" in refused[0]
    with pytest.raises(RunFolderError, match="has completed its task"):
        resumed(done.folder, model)
    with pytest.raises(ConfigError, match=r"rlm\.max_iterations"):
        settings_of(done.folder, {"rlm": {"max_iterations": -1}})


def forked(folder: Path, agent: str, iteration: int, model: Any, said: str = "", **flags: Any) -> RunResult:
    settings = settings_of(folder, {**flags, "runs": {"dir": folder.parent}})
    with fork(folder, settings, agent, iteration, model=model, said=said) as going:
        for _ in going.iterations():
            pass
    return going.result


def test_a_fork_shares_the_first_iterations(tmp_path: Path, repository: Path) -> None:
    """Their variables, edits and conversation; the other run stays as it is, and may be deleted."""
    model = Asked(
        [
            python("x = 1\nedit_file('README.md', 'Says', 'Said')\nresult = rlm_query('help')"),
            python("x = 2"),
            lambda request: python(f"FINAL([x, str(result), {'instead' in request.messages[-1].content}])"),
        ],
        [("help", [python("FINAL('helped')")])],
    )
    first = begun(tmp_path, repository, model)
    assert first.root.answer.value == [2, "helped", False]
    before = contents(first.folder)
    model.requests.clear()
    other = Asked(["", lambda request: python("FINAL([x, str(result), Path('README.md').read_text()])")])
    result = forked(first.folder, "root", 1, other, "Do this instead.")
    assert contents(first.folder) == before
    assert result.root.answer.value == [1, "helped", "# greeting\n\nSaid hello.\n"]
    assert [(request.agent, request.turn) for request in other.requests] == [("root", 2)]
    sent = other.requests[0].messages
    assert sent[-1].content.endswith("# A message from the user\n\nDo this instead.")
    kept = read(first.root.notebook).iterations[0]
    assert [one.content for one in sent[:2]] == [kept.message, kept.reply.text]
    assert [child.outcome.answer.value for child in result.root.children] == ["helped"]
    assert result.balance.spent_cost == result.root.total_cost > 0
    check_record(result.folder)
    shutil.rmtree(first.folder)
    again = forked(result.folder, "root", 0, Asked([python("FINAL(Path('README.md').read_text())")]))
    assert again.root.answer.value == "# greeting\n\nSays hello.\n"
    check_record(again.folder)


def test_a_fork_within_a_sub_agent(tmp_path: Path, repository: Path) -> None:
    """The sub-agent goes on from its iteration, its parent waits in the cell that asked; a sibling keeps its answer."""
    model = Asked(
        [
            python("word = llm_query('a word')"),
            python("both = rlm_query_batched(['first', 'second'])"),
            python("FINAL([str(word), *map(str, both)])"),
        ],
        [
            ("a word", "yes"),
            ("first", [python("n = 1"), python("FINAL(f'first {n}')")]),
            ("second", [python("FINAL('second')")]),
        ],
    )
    first = begun(tmp_path, repository, model)
    assert first.root.answer.value == ["yes", "first 1", "second"]
    other = Asked(
        ["", "", python("FINAL([str(word), *map(str, both)])")], [("first", ["", python("FINAL(f'other {n + 1}')")])]
    )
    result = forked(first.folder, "root.1", 1, other, "Another way.")
    assert result.root.answer.value == ["yes", "other 2", "second"]
    assert [(request.agent, request.turn) for request in other.requests] == [("root.1", 2), ("root", 3)]
    assert "Another way." in other.requests[0].messages[-1].content
    check_record(result.folder)
    with pytest.raises(RunFolderError, match="there is no iteration 7"):
        forked(first.folder, "root.1", 7, other)
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 2


def test_what_agents_left_in_the_repository_of_the_run_counts_for_nothing(tmp_path: Path, repository: Path) -> None:
    """Settings, hooks and detours that a cell put into `ctl.git` are gone before git works in it again."""
    evil = tmp_path / "evil"
    model = Asked([python("x = 1"), python("FINAL('so far')"), python("Path('a').touch()"), python("FINAL(x)")])
    first = begun(tmp_path, repository, model, rlm={"max_iterations": 1})
    ctl = first.folder / "ctl.git"
    with (ctl / "config").open("a") as config:
        config.write(f"[core]\n\tfsmonitor = touch {evil}\n")
    (ctl / "commondir").write_text("/nowhere")
    (ctl / "info" / "attributes").write_text("* filter=evil\n")
    result = resumed(first.folder, model, rlm={"max_iterations": 9})
    assert (result.root.answer.value, result.root.patch.files) == (1, ("a",))
    assert not (ctl / "commondir").exists()
    assert "fsmonitor" not in (ctl / "config").read_text()
    assert "evil" not in (ctl / "info" / "attributes").read_text()
    assert not evil.exists()


def test_a_model_that_failed_is_asked_again(tmp_path: Path, repository: Path) -> None:
    """A run that ended with an error goes on when its model answers again."""
    failing = {"error": "unavailable", "times": 9}
    first = begun(tmp_path, repository, Asked([python("x = 5"), failing]), rlm={"max_failures": 1})
    assert first.root.status == "error"
    result = resumed(first.folder, Asked(["", python("FINAL(x)")]))
    assert (result.root.status, result.root.answer.value) == ("completed", 5)
    check_record(result.folder)
