"""`rlm-nb task` and `rlm-nb init`, as a shell starts them: JSON on stdout, the rest on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from rlm_nb.cli.init import FILES
from rlm_nb.notebook.tree import as_text, tree
from tests.cli.conftest import Command
from tests.servers.completions import CompletionsServer, Fails

SCRIPT = """
price: {input: 3, output: 15}
prompts:
  - pattern: "title of this document"
    reply: On Light
  - pattern: "main point of this section"
    reply: |
      ```json
      {"claim": "It is bent.", "confidence": "high",}
      ```
  - pattern: "main point of this text"
    reply: A point.
  - pattern: conclude
    reply: It is both.
  - pattern: How bad
    reply: Critical.
  - pattern: What went wrong
    reply: '{"category": "disk", "cause": "It is full."}'
  - pattern: people, organizations
    reply: '{"people": ["Ada"], "places": ["Paris"]}'
  - pattern: does this passage say
    reply: The butler did it.
  - pattern: From these notes
    reply: The butler.
"""

DOCUMENT = (
    "# Light\n"
    + "Light is bent by gravity. " * 100
    + "\n# Sound\nAn error: disk full. Ada stole the letter in Paris.\n"
)


@pytest.fixture
def here(tmp_path: Path, rlm_nb: Command) -> Path:
    """The folder that commands run in, with a text and a script in it."""
    folder = tmp_path / "here"
    (folder / "text.md").write_text(DOCUMENT, "utf-8")
    (folder / "script.yaml").write_text(SCRIPT, "utf-8")
    return folder


MODEL = ["--model", "scripted:script.yaml"]

RESULTS = {
    "analyze_document": {
        "analysis": {
            "title": "On Light",
            "key_points": [{"claim": "It is bent.", "confidence": "high"}] * 2,
            "conclusion": "It is both.",
        }
    },
    "find_errors_in_log": {
        "errors": [
            {"line": 4, "match": "error", "severity": "critical", "category": "disk", "cause": "It is full."},
        ],
        "matches": 1,
    },
    "extract_entities": {
        "entities": {"people": ["Ada"], "organizations": [], "places": ["Paris"], "dates": []},
        "chunks": 2,
    },
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_task_that_comes_along(rlm_nb: Command, here: Path, name: str) -> None:
    """Its result is JSON of four parts at most on stdout; progress and the notebook are named on stderr."""
    done = rlm_nb("task", "text.md", "--task", name, *MODEL)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == ["status", "result", "budget_summary"]
    assert (result["status"], result["result"]) == ("completed", RESULTS[name])
    assert 0 < result["budget_summary"]["total_cost_usd"] <= result["budget_summary"]["cost_budget_usd"] == 0.5
    assert "task.ipynb" in done.stderr
    (folder,) = here.glob("runs/*/")
    assert json.loads((folder / "result.json").read_text("utf-8")) == result


def test_the_record_of_a_task(rlm_nb: Command, here: Path) -> None:
    """A valid notebook: the code, each question as the call that asks it again, the result; and all that was seen."""
    done = rlm_nb("task", "text.md", *MODEL)
    (folder,) = here.glob("runs/*/")
    notebook = nbformat.read(folder / "task.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = {cell["id"]: cell for cell in notebook["cells"]}
    assert "# Task analyze" in cells["head"]["source"]
    assert "**completed**" in cells["head"]["source"]
    assert cells["task"]["source"].startswith("def analyze_document(")
    asked = [cell for name, cell in cells.items() if name.startswith("step-") and "semantic_subcall" in cell["source"]]
    assert len(asked) == json.loads(done.stdout)["budget_summary"]["total_calls"] == 4
    assert asked[0]["outputs"][0]["text"] == "On Light\n"
    assert "context_slice(context, 0, 1000)" in asked[0]["source"]
    assert notebook["metadata"]["rlm"]["kind"] == "task"
    assert '"It is both."' in cells["final"]["source"]
    audit = [json.loads(line) for line in (folder / "audit.jsonl").read_text("utf-8").splitlines()]
    accesses = [line["access"] for line in audit if "access" in line]
    assert [access["operation"] for access in accesses] == [
        "head",
        "search",
        "match",
        "match",
        "slice",
        "slice",
        "tail",
    ]
    assert all(access["source"] == str(here / "text.md") for access in accesses)
    rests_on = [line["subcall"]["basis"]["sha256"] for line in audit if "subcall" in line]
    assert set(rests_on) <= {access["sha256"] for access in accesses}


TYPED = """
from rlm_nb.tasks import *

def typed(text):
    chunk = context_slice(text, 0, 4)
    number = semantic_subcall_json("Which number?", chunk, schema={"type": "integer"})
    return [number, semantic_subcall_bool("Is it?", chunk), semantic_subcall_choice("Which?", chunk, ["a", "b"])]
"""


def test_the_record_of_typed_questions(rlm_nb: Command, here: Path) -> None:
    """Each is the call that the task made, with its choices and its schema and without what is added to its prompt."""
    (here / "typed_task.py").write_text(TYPED)
    script = [{"pattern": "could not be used", "reply": "a"}, {"pattern": "number", "reply": "5"}]
    script += [{"pattern": "Is it", "reply": "yes"}, {"pattern": ".", "reply": "not a"}]
    (here / "typed.yaml").write_text(json.dumps({"price": {"input": 3, "output": 15}, "prompts": script}))
    done = rlm_nb("task", "text.md", "-t", "typed_task:typed", "--model", "scripted:typed.yaml")
    assert json.loads(done.stdout)["result"] == [5, True, "a"], done.stderr
    (folder,) = here.glob("runs/*/")
    cells = nbformat.read(folder / "task.ipynb", as_version=4)["cells"]
    calls = [cell["source"].split("\n", 1) for cell in cells if "subcall_" in cell["source"] and cell["id"] != "task"]
    chunk = "    context_slice(context, 0, 4),\n"
    which = f"semantic_subcall_choice(\n    'Which?',\n{chunk}    choices=['a', 'b'],\n)"
    assert calls[-1][1].startswith("# Asked once more: it names none of the choices")
    assert [call.partition("\n")[2] if call.startswith("#") else call for _, call in calls] == [
        f"semantic_subcall_json(\n    'Which number?',\n{chunk}    schema={{'type': 'integer'}},\n)",
        f"semantic_subcall_bool(\n    'Is it?',\n{chunk})",
        which,
        which,
    ]


def test_questions_for_a_book(rlm_nb: Command, here: Path) -> None:
    """The answer comes with the passages that it rests on; other tasks take no question."""
    done = rlm_nb("task", "text.md", "-t", "ask_book", "-q", "Who stole the letter?", *MODEL)
    result = json.loads(done.stdout)["result"]
    assert (result["answer"], len(result["passages"])) == ("The butler.", 1)
    passage = result["passages"][0]
    assert "stole the letter" in DOCUMENT[passage["start"] : passage["end"]]
    (folder,) = here.glob("runs/*/")
    notebook = nbformat.read(folder / "task.ipynb", as_version=4)
    assert "# Task ask\\_book" in notebook["cells"][0]["source"]
    assert "Who stole the letter?" in notebook["cells"][0]["source"]
    assert notebook["cells"][1]["source"].startswith("def ask_book(")
    refused = rlm_nb("task", "text.md", "-q", "Who?", *MODEL)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "answers no question" in refused.stderr


def test_a_task_of_ones_own(rlm_nb: Command, here: Path) -> None:
    """By module and function, from the current folder; a limit gives what there is, and exit code 3."""
    (here / "mine.py").write_text(
        "import time\n\ndef slow(context):\n    yield len(context)\n    time.sleep(60)\n\n"
        "def broken(context):\n    yield 1\n    raise ValueError('no')\n"
    )
    done = rlm_nb("task", "text.md", "--task", "mine:slow", "--timeout", "0.3", "-o", "out.json", *MODEL)
    assert (done.returncode, done.stdout) == (3, "")
    result = json.loads((here / "out.json").read_text("utf-8"))
    assert (result["status"], result["result"]) == ("partial", [len(DOCUMENT)])
    assert result["error"].startswith("limit reached: seconds of a task")
    done = rlm_nb("task", "text.md", "--task", "mine:broken", *MODEL)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "ValueError: no"
    assert json.loads(done.stdout)["result"] == [1]


def test_a_task_of_an_installed_package(rlm_nb: Command, here: Path, tmp_path: Path) -> None:
    """It is there by the name that the package gives it, beside those that come along."""
    package = tmp_path / "installed"
    (package / "their-1.0.dist-info").mkdir(parents=True)
    (package / "their-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    (package / "their-1.0.dist-info/entry_points.txt").write_text("[rlm_nb.tasks]\ncount_words = their:count\n")
    (package / "their.py").write_text("def count(context):\n    return len(str(context).split())\n")
    done = rlm_nb("task", "text.md", "--task", "count_words", *MODEL, PYTHONPATH=str(package))
    assert json.loads(done.stdout)["result"] == len(DOCUMENT.split()), done.stderr
    unknown = rlm_nb("task", "text.md", "--task", "count_wurds", *MODEL, PYTHONPATH=str(package))
    assert "there are analyze_document, ask_book, count_words, extract_entities, find_errors_in_log" in unknown.stderr


def test_what_a_task_prints(rlm_nb: Command, here: Path) -> None:
    """Stdout is the JSON alone: what the module, the task, its children and its prompts print goes to stderr."""
    (here / "loud.py").write_text(
        "import os, threading, time\n\nprint('of the module', flush=True)\n\n"
        "def later():\n    for _ in range(100):\n        time.sleep(0.01)\n        os.write(1, b'of a thread\\n')\n\n"
        "def task(context):\n    print('of the task')\n    os.system('echo of a child')\n"
        "    os.write(1, b'of the system\\n')\n    threading.Thread(target=later, daemon=True).start()\n"
        "    try:\n        input('a prompt')\n    except EOFError:\n        pass\n    return [b'\\xff', 10**5000]\n"
    )
    done = rlm_nb("task", "text.md", "--task", "loud:task", *MODEL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"][0] == "\\xff"
    for words in ("of the module", "of the task", "of a child", "of the system", "of a thread", "a prompt"):
        assert words in done.stderr


def test_a_task_that_closes_what_it_did_not_open(rlm_nb: Command, here: Path) -> None:
    """Its result is on stdout, and what is said about it on stderr, all the same."""
    (here / "mine.py").write_text(
        "import sys\n\ndef task(context):\n    sys.stdout.close()\n    sys.stderr.close()\n    return 'kept'\n"
    )
    done = rlm_nb("task", "text.md", "--task", "mine:task", *MODEL)
    assert (done.returncode, json.loads(done.stdout)["result"]) == (0, "kept")
    assert done.stderr.splitlines()[1] == "completed"


def test_a_pipe_that_nobody_reads(rlm_nb: Command, here: Path) -> None:
    """It is not waited for: the result is in the run's folder."""
    os.mkfifo(here / "pipe")
    done = rlm_nb("task", "text.md", *MODEL, "-o", "pipe")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the result could not be written to pipe: No such device or address" in done.stderr
    (recorded,) = here.glob("runs/*/result.json")
    assert json.loads(recorded.read_text("utf-8"))["status"] == "completed"


def test_a_folder_that_vanishes(rlm_nb: Command, here: Path) -> None:
    """The result is delivered; that it is not recorded is said, and shows in the exit code."""
    (here / "mine.py").write_text(
        "import shutil\n\ndef task(context):\n    yield 'found'\n    shutil.rmtree('runs')\n    context[:3]\n"
    )
    done = rlm_nb("task", "text.md", "--task", "mine:task", *MODEL)
    assert done.returncode == 1
    assert (json.loads(done.stdout)["status"], json.loads(done.stdout)["result"]) == ("completed", ["found"])
    assert "result.json: cannot be written" in done.stderr


def test_a_task_that_draws_on_a_purse(rlm_nb: Command, here: Path) -> None:
    """It says what is in there, as a run does, in its notebook too; both budgets are charged."""
    (here / "config.yaml").write_text("rlm: {}\nbudget: {file: team.json, max_cost: 2}\n")
    first = rlm_nb("task", "text.md", *MODEL)
    assert first.returncode == 0
    assert "team.json was made, and has $2.00 left of $2.00\n" in first.stderr
    cost = json.loads(first.stdout)["budget_summary"]["total_cost_usd"]
    (folder,) = here.glob("runs/*/")
    notebook = nbformat.read(folder / "task.ipynb", as_version=4)
    assert notebook["metadata"]["rlm"]["notices"] == ["team.json was made, and has $2.00 left of $2.00"]
    assert "was made, and has" in notebook["cells"][0]["source"]
    assert '"notice": "team.json was made' in (folder / "audit.jsonl").read_text("utf-8")
    second = rlm_nb("task", "text.md", *MODEL)
    assert f"team.json has ${2 - cost:.2f} left of $2.00\n" in second.stderr
    held = json.loads(rlm_nb("budget", "team.json", "--json").stdout)
    assert held["spent"]["cost_usd"] == pytest.approx(2 * cost)
    assert len(held["spent_by"]) == 2
    assert held["reserved_by"] == []


def test_other_verbs_find_a_task(rlm_nb: Command, here: Path) -> None:
    """Its run.json says what it is and that it ended; those that have nothing to do with it say so."""
    done = rlm_nb("task", "text.md", *MODEL)
    assert done.returncode == 0
    (folder,) = here.glob("runs/*/")
    assert not list(folder.glob("*.new"))
    shown = rlm_nb("tree", "last")
    cost = f"${json.loads(done.stdout)['budget_summary']['total_cost_usd']:.4f}"
    pattern = rf"task · completed · 4 calls · {re.escape(cost)} · [0-9.]+m?s · analyze_document · runs/.*/task\.ipynb\n"
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.fullmatch(pattern, shown.stdout)
    for verb, says in (
        ("diff", "is the run of a task, which changes no files"),
        ("apply", "is the run of a task, which changes no files"),
        ("replay", "is the record of a task, not of an agent"),
        ("resume", "is the run of a task, which cannot go on"),
    ):
        other = rlm_nb(verb, "last")
        assert (other.returncode, other.stdout) == (1, "")
        assert says in other.stderr
    state = json.loads((folder / "run.json").read_text("utf-8"))
    assert (state["kind"], state["task"], state["status"]) == ("task", "analyze_document", "completed")
    assert state["started"] <= state["ended"]
    assert rlm_nb("budget", "last").returncode == 0
    assert rlm_nb("clean", folder.name, "--yes").returncode == 0
    assert not folder.exists()


def test_limits_from_the_environment(rlm_nb: Command, here: Path) -> None:
    """`RLM_MAX_COST`, `RLM_MAX_RUNTIME` and `RLM_MODEL` hold for tasks, in `.env` too, and flags count more."""
    (here / ".env").write_text("RLM_MAX_COST=0.25\nRLM_MAX_RUNTIME=30\n")
    done = rlm_nb("task", "text.md", RLM_MODEL="scripted:script.yaml")
    assert json.loads(done.stdout)["budget_summary"]["cost_budget_usd"] == 0.25
    assert "at most $0.25, 30s" in done.stderr
    done = rlm_nb("task", "text.md", "--cost", "0.000001", RLM_MODEL="scripted:script.yaml")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"].startswith("limit reached: cost in US dollars")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.txt", *MODEL], 1, "missing.txt: the context cannot be read"),
        (
            ["text.md", "--task", "nothing", *MODEL],
            2,
            "there is no task 'nothing'; there are analyze_document, ask_book",
        ),
        (["text.md", "--task", "nothing:at_all", *MODEL], 2, "the task nothing:at_all cannot be loaded"),
        (["text.md", "--task", "json:decoder", *MODEL], 2, "the task json:decoder is no function"),
        (["text.md", "--task", "../mine:f", *MODEL], 2, "the task ../mine:f cannot be loaded: TypeError"),
        (["text.md", "--task", "wrong:f", *MODEL], 2, "the task wrong:f cannot be loaded: SyntaxError: invalid syntax"),
        (["text.md", "--task", "leaves:f", *MODEL], 2, "the task leaves:f cannot be loaded: SystemExit: 0"),
        (["text.md", "--task", "builtins:dict", "-q", "Who?", *MODEL], 2, "answers no question"),
        (["empty.txt", *MODEL], 1, "empty.txt: there is no text in it"),
        (["text.md", "--cost", "-1", *MODEL], 2, "--cost: must be greater than 0, found -1.0"),
        (["text.md", "--timeout", "nan", *MODEL], 2, "--timeout: must be a finite number"),
        (["text.md", "--max-tokens", "9" * 20, *MODEL], 2, "--max-tokens: must be less than 1000000000"),
        (["text.md", "--model", "claude-sonnet-5-5"], 1, "ANTHROPIC_API_KEY"),
    ],
)
def test_what_cannot_begin(rlm_nb: Command, here: Path, arguments: list[str], code: int, words: str) -> None:
    """A sentence, nothing on stdout, no folder left."""
    (here / "empty.txt").touch()
    (here / "wrong.py").write_text("def f(:")
    (here / "leaves.py").write_text("import sys; sys.exit(0)")
    done = rlm_nb("task", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert not (here / "runs").exists()


def test_ctrl_c(here: Path) -> None:
    """The task ends with what it has; the exit code is that of an interrupt."""
    (here / "mine.py").write_text(
        "def endless(context):\n    yield 'found'\n    open('begun', 'w')\n    while True: pass\n"
    )
    command = [sys.executable, "-m", "rlm_nb", "task", "text.md", "--task", "mine:endless", *MODEL]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not (here / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert out, err
    assert json.loads(out)["result"] == ["found"]
    assert json.loads(out)["error"] == "interrupted by the user"


def test_a_task_that_is_killed(here: Path) -> None:
    """What it had asked and looked at until then is in its notebook and its log, both whole; `tree` finds it."""
    (here / "mine.py").write_text(
        "import time\nfrom rlm_nb.tasks import *\n\ndef endless(context):\n"
        "    semantic_subcall('What conclude?', context_slice(context, 0, 9))\n"
        "    context_slice(context, 3, 5)\n    time.sleep(0.1)\n    open('begun', 'w')\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "rlm_nb", "task", "text.md", "--task", "mine:endless", *MODEL]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not (here / "begun").exists() or "It is both." not in next(here.glob("runs/*/task.ipynb")).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    (folder,) = here.glob("runs/*/")
    nbformat.validate(nbformat.read(folder / "task.ipynb", as_version=4))
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text("utf-8").splitlines()]
    assert ["subcall" if "subcall" in line else line["access"]["start"] for line in lines] == [0, "subcall", 3]
    assert as_text(tree(folder)).startswith("task · unfinished · 1 call · $0.00")


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_task_that_asks_a_service(rlm_nb: Command, here: Path, place: str) -> None:
    """The key is read from the environment or `.env`; the task's code does not get it, no file and no screen has it."""
    key = "sk-proj-planted-0123456789"
    (here / "mine.py").write_text(
        "import os\nfrom rlm_nb.tasks import *\n\ndef ask(context):\n"
        "    yield os.environ.get('OPENAI_API_KEY')\n"
        "    yield semantic_subcall('What?', context_slice(context, 0, 9))\n"
        "    yield semantic_subcall('What else?', context_slice(context, 0, 9))\n"
    )
    variables = {"OPENAI_API_KEY": key} if place == "environment" else {}
    if place == ".env":
        (here / ".env").write_text(f"OPENAI_API_KEY={key}\n")
    with CompletionsServer("An answer.", Fails(401, f"no good: {key}"), key=key) as server:
        settings = {"model": {"base_url": server.url}, "budget": {"prices": {"gpt-test": {"input": 3, "output": 15}}}}
        (here / "own.yaml").write_text(json.dumps({"rlm": {}, **settings}))
        done = rlm_nb("task", "text.md", "-t", "mine:ask", "--model", "gpt-test", "-c", "own.yaml", **variables)
    result = json.loads(done.stdout)
    assert (done.returncode, result["status"], result["result"]) == (1, "error", [None, "An answer."])
    assert result["error"].startswith("RefusedKeyError: the service does not accept OPENAI_API_KEY (401: ")
    assert (result["budget_summary"]["total_calls"], result["budget_summary"]["total_cost_usd"] > 0) == (2, True)
    recorded = [path.read_text("utf-8", "replace") for path in here.glob("runs/*/*")]
    assert len(recorded) > 5
    assert not any(key in text for text in (done.stdout, done.stderr, *recorded))


def test_init(rlm_nb: Command, tmp_path: Path) -> None:
    """A folder in which the example works; what is there is never overwritten."""
    here = tmp_path / "here"
    (here / "script.yaml").write_text(SCRIPT, "utf-8")
    (here / "CLAUDE.md").write_text("mine")
    done = rlm_nb("init")
    assert done.returncode == 0, done.stderr
    assert (here / "CLAUDE.md").read_text() == "mine"
    assert f"kept  {Path('CLAUDE.md')}, which is there already" in done.stderr
    assert all((here / place).is_file() for place in FILES.values())
    assert "wrote" not in rlm_nb("init", ".").stderr
    (here / "text.txt").write_text(DOCUMENT)
    done = rlm_nb("task", "text.txt", "--task", "tasks.example_task:main_points", *MODEL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["count"] == 2
    script = "scripted:tasks/script.yaml"
    done = rlm_nb("task", "text.txt", "--task", "tasks.example_task:main_points", "--model", script)
    assert json.loads(done.stdout)["result"]["points"][0]["point"] == "It has a point.", done.stderr


def test_init_where_it_cannot_be(rlm_nb: Command, tmp_path: Path) -> None:
    """Something else in the place of a folder is said; what is there stays as it is, links that lead nowhere too."""
    here = tmp_path / "here"
    (here / "file").write_text("mine")
    for place in ("file", "file/below"):
        done = rlm_nb("init", place)
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: {place}/config.yaml: cannot be written: Not a directory\n",
        )
    (here / "half").mkdir()
    (here / "half/tasks").write_text("mine")
    (here / "half/config.yaml").symlink_to(tmp_path / "elsewhere")
    done = rlm_nb("init", "half")
    assert done.returncode == 1
    assert "half/tasks/example_task.py: cannot be written: Not a directory" in done.stderr
    assert "kept  half/config.yaml" in done.stderr
    assert ((here / "file").read_text(), (here / "half/tasks").read_text()) == ("mine", "mine")
    assert not (tmp_path / "elsewhere").exists()


def test_init_on_a_full_disk(tmp_path: Path) -> None:
    """No half of a file is left, which would be kept the next time."""
    small = tmp_path / "small"
    script = (
        f"mkdir {small} && mount -t tmpfs -o size=16k none {small} && head -c 15000 /dev/zero > {small}/ballast;"
        f"{sys.executable} -m rlm_nb init {small}; code=$?; find {small} -size -3k -type f; exit $code"
    )
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no file systems of our own on this system")
    assert (done.returncode, done.stdout) == (1, "")
    assert "config.yaml: cannot be written: No space left on device" in done.stderr
