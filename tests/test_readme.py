"""What the README and its kin tell people to do works, and what they name is there.

Shell blocks run as one script, line by line as they stand, in a folder of their own. Replaced are only the places that
nobody has (`PLACES`), the model, which `RLM_MODEL` makes a scripted one, and the setting up of the environment: the one
that runs the tests is there already. `tests/test_demo.py` runs `make demo`.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from markdown_it import MarkdownIt

from rlm_nb import config
from rlm_nb.cli.run import EXIT_CODES
from rlm_nb.jupyter.magics import RLMMagics
from rlm_nb.records import AnswerSource

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PLACES = {
    "make environment": "make -o environment environment",
    "/path/to/repo": "{repository}",
    "https://example.org/org/repo": "file://{repository}",
    "runs/<id>/": "$(dirname $(ls -t runs/*/root.ipynb | head -n 1))/",
}
"""What stands in the documents, and what a test has instead; `ls -t` names the latest run of an agent."""

SCREEN = {
    "git clone … && cd rlm-nb && make demo": "tests/test_demo.py",
    "make test": "a test below",
    "pip install 'rlm-nb[lab]'": "tests/test_packaging.py",
    "rlm-nb lab last": "tests/browser/test_lab_verb.py",
    "export RLM_MODEL=scripted:model.yaml": "a test below",
}
"""The commands that are shown with what they print, and who runs them."""

VERBS = ["run", "tree", "diff", "apply", "clean", "task", "replay", "resume", "fork", "step", "runs", "show", "report"]
VERBS += ["lab", "attach"]
"""Those whose flags the documents name."""

CELL = """edit_file("README.md", "Says hello.", "Says hello to everybody.")\nFINAL("done")\n"""
LOG = "An error happened.\nNobody stole the letter.\n"
"""The text that tasks are run on."""

INDENTED = CELL.strip().replace("\n", "\n    ")
SCRIPT = f"""
prompts: [{{pattern: ., reply: info}}]
agents:
  root:
  - |
    ```python
    {INDENTED}
    ```
"""
"""One agent that changes a file and is done: what stands for a model here."""


def test_the_shell_commands_work(tmp_path: Path, repository: Path) -> None:
    """Install, run, look, apply: one after the other, as a reader would."""
    here = tmp_path / "here"
    shutil.copytree(repository, here / "my-project")
    shutil.copy(ROOT / "Makefile", here)
    for name in ("document.txt", "server.log", "book.txt", "large_file.txt"):
        (here / name).write_text(LOG)
    (here / ".venv").symlink_to(sys.prefix)
    (tmp_path / "script.yaml").write_text(SCRIPT, "utf-8")
    script = "".join(code for path in DOCS for code in fenced(path, "sh"))
    for place, real in PLACES.items():
        assert place in script
        script = script.replace(place, real.format(repository=repository))
    environment = {"RLM_MODEL": f"scripted:{tmp_path / 'script.yaml'}"}
    done = subprocess.run(
        ["sh", "-exc", script],
        cwd=here,
        input=f"{CELL}.\n",  # for the one command whose model is a person
        capture_output=True,
        text=True,
        env=plain_environment() | environment,
    )
    assert done.returncode == 0, done.stderr
    runs = [line for line in script.splitlines() if line.startswith("rlm-nb run ")]
    assert done.stderr.count("completed: The agent called FINAL.") == len(runs) == 5
    assert (here / "result.txt").read_text("utf-8") == "done\n"
    assert "Says hello to everybody." in (here / "my-project" / "README.md").read_text("utf-8")
    assert "Says hello.\n" in (repository / "README.md").read_text("utf-8")


def test_every_command_on_a_screen_is_run_by_a_test() -> None:
    """A block that shows what a command prints has a command that somebody runs."""
    shown = [
        line[2:] for path in DOCS for code in fenced(path, "console") for line in code.splitlines() if line[:1] == "$"
    ]
    assert shown == list(SCREEN)


def test_make_test_prints_what_is_shown() -> None:
    """With the arguments that CONTRIBUTING gives as an example, so that it does not take long."""
    (shown,) = (code for code in fenced(ROOT / "README.md", "console") if code.startswith("$ make test\n"))
    (example,) = re.findall(
        r"^ *(make test PYTEST_ARGS=.+)$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE
    )
    command = [*shlex.split(example), "-o", "environment", f"VENV={sys.prefix}"]
    command = [f"{part} -p no:cacheprovider" if part.startswith("PYTEST_ARGS") else part for part in command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=plain_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    for line in shown.splitlines()[1:]:
        pattern = re.sub(r"=+", "=+", re.escape(line).replace("…", ".*"))
        assert re.search(pattern, done.stdout), line


def test_the_python_snippets_work(tmp_path: Path, repository: Path) -> None:
    """As one program, with another script and another repository in the places that `make demo` fills."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "demo.yaml").write_text(SCRIPT, "utf-8")
    shutil.copytree(repository, tmp_path / "build" / "pantry")
    program = "\n".join(fenced(ROOT / "README.md", "python"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=plain_environment()
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"completed done\n\S+ \S+changes\.patch 0\.0 US dollars\n1 \['ok'\]\ndone\n", done.stdout)


def test_the_python_of_the_page_on_tasks_works(tmp_path: Path) -> None:
    """As one program, on a small log."""
    (tmp_path / "script.yaml").write_text(SCRIPT, "utf-8")
    (tmp_path / "server.log").write_text(LOG)
    program = "\n".join(fenced(ROOT / "docs" / "bounded-tasks.md", "python"))
    environment = plain_environment() | {"RLM_MODEL": "scripted:script.yaml"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 found\n1 chunks; 1 calls\ncompleted\n"


def test_the_examples_of_tasks_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line at a prompt gives what stands below it, with the page's own script for a model."""
    page = ROOT / "docs" / "tasks-by-example.md"
    monkeypatch.chdir(tmp_path)
    (model,) = fenced(page, "yml")
    Path("model.yaml").write_text(model, "utf-8")
    (command,) = fenced(page, "console")
    name, _, value = command.removeprefix("$ export ").strip().partition("=")
    monkeypatch.setenv(name, value)
    session = doctest.DocTestParser().get_doctest("".join(fenced(page, "pycon")), {}, page.name, str(page), 0)
    assert len(session.examples) > 30
    said: list[str] = []
    assert not doctest.DocTestRunner().run(session, out=said.append).failed, "".join(said)


def test_the_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of YAML can be read, every variable sets something, and so does `.env.example`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLM_ISOLATION_LEVEL")
    for number, code in enumerate(code for path in DOCS for code in fenced(path, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(code, "utf-8")
        assert config.load(file) != config.Config()
    named = dict(re.findall(r"`(RLM_\w+)=([^`]+)`", everything()))
    assert named
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert config.load() != config.Config()
    for name in named:
        monkeypatch.delenv(name)
    example = (ROOT / ".env.example").read_text("utf-8")
    (tmp_path / ".env").write_text(re.sub(r"^# (?=RLM_)", "", example, flags=re.MULTILINE), "utf-8")
    assert config.load() == config.Config()  # it shows the defaults
    assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) <= set(config.KEYS)


def test_the_flags_and_targets_exist() -> None:
    """Every flag is one of a verb of `rlm-nb` or of a magic, and every `make …` one of the Makefile."""
    text = everything()
    usage = "".join(
        subprocess.run(
            [sys.executable, "-m", "rlm_nb", *verb.split(), "--help"], stdout=-1, text=True, check=True
        ).stdout
        for verb in (*VERBS, "kernelspec install")
    )
    magics = (RLMMagics.rlm, RLMMagics.rlm_step, RLMMagics.rlm_apply)
    usage += "".join(magic.parser.format_help() for magic in magics)
    flags = set(
        re.findall(
            r"(?<![\w-])--[a-z][a-z-]+",
            re.sub(r"\b(git|mypy|jupytext|nbconvert|jupyter console) .*|`--update`", "", text),
        )
    )
    assert flags
    assert flags <= set(re.findall(r"--[a-z][a-z-]+", usage))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ {4}|&& )make ([a-z]+)\b", text, re.MULTILINE)) <= targets


def test_every_link_leads_to_a_file() -> None:
    """Links within the repository; those to elsewhere are left alone."""
    for path in [*DOCS, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_file_that_the_page_on_runs_names_exists() -> None:
    """Its paths are those below the package."""
    text = (ROOT / "docs" / "how-a-run-works.md").read_text("utf-8")
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", text)
    assert len(named) > 20
    for name in named:
        assert (ROOT / "rlm_nb" / name).exists() or name in ("rlm_nb/", "outputs/"), name


def test_the_tables_of_the_page_on_runs_are_complete() -> None:
    """Every way in which an answer can come about, and every exit code."""
    text = (ROOT / "docs" / "how-a-run-works.md").read_text("utf-8")
    assert tuple(re.findall(r"^\| `([a-z ]+)` \|", text, re.MULTILINE)) == get_args(AnswerSource)
    codes = re.findall(r"^\| (\d+(?:, \d+)?) \|", text, re.MULTILINE)
    assert re.findall(r"\b\d+\b", " ".join(codes)) == re.findall(r"\b\d+\b", EXIT_CODES)


def fenced(path: Path, language: str) -> Iterator[str]:
    """The contents of a document's code blocks in a language."""
    for token in MarkdownIt().parse(path.read_text("utf-8")):
        if token.type == "fence" and token.info == language:
            yield token.content


def everything() -> str:
    """The text of all documents."""
    return "\n".join(path.read_text("utf-8") for path in DOCS)


def plain_environment() -> dict[str, str]:
    """The environment of a user's shell: nothing of a make or a pytest that runs the tests."""
    ours = ("MAKE", "MFLAGS", "WORKERS", "PYTEST_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
