"""An agent does its worst in its worktree; the user's repository stays as it is, and nothing that it planted runs."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Git
from tests.whole_runs.conftest import Shell, cell
from tests.workspace import witness

WORST = """
import os, shutil, stat, subprocess
def git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True)

def program(path, body="#!/bin/sh\\ntouch {ran}\\ncat\\n"):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body)
    path.chmod(0o755)
    return str(path)

edit_file("README.md", "Says hello.", "Says hello to everybody.")
git("checkout", "-b", "topic")
git("-c", "user.name=M", "-c", "user.email=m@m", "commit", "--all", "--message=Mine")
git("stash", "--include-untracked")
git("stash", "pop")
git("branch", "-D", "main")
git("update-ref", "refs/heads/main", "HEAD")
git("checkout", "--orphan", "other")
git("reset", "--hard", "topic")
git("worktree", "add", "../elsewhere")
git("worktree", "prune")
git("reflog", "expire", "--expire=now", "--all")
git("gc", "--prune=now", "--aggressive")
git("repack", "-adf")
git("fsck", "--lost-found")
payload = program(Path("payload").absolute())
for setting in ("core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "diff.external", "gpg.program",
                "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv",
                "diff.evil.command", "merge.evil.driver", "credential.helper", "alias.status"):
    for scope in ("--local", "--worktree"):
        git("config", scope, setting, payload)
git("config", "core.hooksPath", str(Path("hooks").absolute()))
common = git("rev-parse", "--path-format=absolute", "--git-common-dir").stdout.strip()
for name in ("post-checkout", "pre-commit", "post-commit", "post-index-change", "reference-transaction",
             "fsmonitor-watchman", "post-merge", "pre-auto-gc", "post-rewrite"):
    for folder in ("hooks", f"{common}/hooks", "nested/.git/hooks"):
        program(f"{folder}/{name}")
Path(".gitattributes").write_text("* filter=evil diff=evil merge=evil text eol=crlf\\n")
Path("greeting/.gitattributes").write_text("*.py filter=evil\\n")
submodule = ['[submodule "x"]', "path = sub", 'url = ext::sh -c "touch {ran}"', "update = !touch {ran}", ""]
Path(".gitmodules").write_text("\\n".join(submodule))
Path(".gitconfig").write_text(f"[core]\\n\\tfsmonitor = {{payload}}\\n")
git("init", "nested")
git("-C", "nested", "config", "core.fsmonitor", payload)
Path("nested/file").write_text("x")
Path("out").symlink_to("{user}")
Path("hook").symlink_to("{user}/.git/hooks/pre-commit")
Path("tests/test_hello.py").unlink()
Path("tests").rmdir()
Path("tests").symlink_to("{user}/tests")
os.mkfifo("fifo")
shutil.copytree(common, "copied.git", dirs_exist_ok=True)
Path(".git").unlink()
Path(".git").write_text("gitdir: {user}/.git\\n")
Path("GIT").mkdir()
Path("GIT").rename(".GIT")
program(".GIT/hooks/pre-commit")
program("greeting/.git/hooks/pre-commit")
Path("greeting/hello.py").chmod(0o755)
"""


def fingerprint(folder: Path) -> str:
    """One hash of the names, kinds, modes and contents of everything in a folder, `.git` included."""
    digest = hashlib.sha256()
    for name, (mode, data) in sorted(witness.modes_and_bytes(folder).items()):
        digest.update(repr((name, stat.S_IFMT(mode), stat.S_IMODE(mode), hashlib.sha256(data).hexdigest())).encode())
    return digest.hexdigest()


def lively(repository: Path, git: Git) -> None:
    """A repository as users have them: dirty, with a stash, branches, hooks, a tag, an upstream and packed objects."""
    git(repository, "branch", "side")
    git(repository, "tag", "--annotate", "v1", "--message=One")
    (repository / "README.md").write_text("# greeting\n\nStashed.\n")
    git(repository, "stash")
    git(repository, "gc", "--quiet")
    git(repository, "config", "remote.origin.url", "https://example.org/repo")
    (repository / ".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 0\n")
    (repository / ".git/hooks/pre-commit").chmod(0o755)
    (repository / "staged.txt").write_text("staged\n")
    git(repository, "add", "staged.txt")
    (repository / "greeting/__init__.py").write_text("# not staged\n")
    (repository / "untracked.txt").write_text("untracked\n")
    (repository / "ignored.log").write_text("ignored\n")


@pytest.mark.parametrize("children", [False, True], ids=["root, free", "with sub-agents, confined"])
def test_an_agent_at_its_worst(
    shell: Shell, repository: Path, git: Git, tmp_path: Path, children: bool, request: pytest.FixtureRequest
) -> None:
    """Byte for byte as before; the edits are there; and what the user does next starts none of what was planted."""
    if children:
        request.getfixturevalue("confined")
    lively(repository, git)
    ran = tmp_path / "ran"
    worst = cell(
        WORST.replace("{ran}", str(ran)).replace("{user}", str(repository)).replace("{{", "{").replace("}}", "}")
    )
    before = fingerprint(repository)
    script = {"root": [worst, cell("FINAL(1)")]}
    if children:
        delegate = cell('results = rlm_query_batched(["one", "two"])', "results[0].apply()", "FINAL(1)")
        script = {"root": [delegate], "root.1": [worst, cell("FINAL(1)")], "root.2": [worst, cell("FINAL(1)")]}
    ended = shell.run(repository, "--model", shell.script(script))
    assert (ended.code, ended.out) == (0, "1\n"), ended.err
    assert fingerprint(repository) == before
    ran.unlink(missing_ok=True)  # the agent's own git has run it, in the agent's own worktree: that is its business
    environment = os.environ | {"GIT_PAGER": "cat"}

    def user(*command: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, errors="replace", timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert not ran.exists(), command
        return done

    rlm_nb = (sys.executable, "-m", "rlm_nb")
    user("git", "status")
    assert "Says hello to everybody." in user(*rlm_nb, "diff", ended.run).stdout
    inside = witness.modes_and_bytes(repository / ".git")
    user(*rlm_nb, "apply", ended.run, "--branch", "theirs")
    made = witness.modes_and_bytes(repository / ".git")
    new = {name for name in made.keys() | inside.keys() if made.get(name) != inside.get(name)}
    assert {name for name in new if not name.startswith("objects/")} == {"refs/heads/theirs", "logs/refs/heads/theirs"}
    names = user(*rlm_nb, "apply", ended.run).stdout.splitlines()
    assert witness.modes_and_bytes(repository / ".git") == made
    assert {"README.md", "payload", ".gitattributes", "out"} <= set(names)
    assert not [name for name in names if ".git" in name.lower().split("/")]
    assert "to everybody" in (repository / "README.md").read_text()
    assert (repository / "tests").is_symlink()
    assert (repository / "staged.txt").read_text() == "staged\n"
    for command in ("status", "diff", "log -p theirs", "stash list", "show theirs", "add --all", "commit -m x"):
        user("git", "-c", "user.name=U", "-c", "user.email=u@u", *command.split())
    assert git(repository, "stash", "show", "-p").count("Stashed.") == 1
