"""Whom the server answers about runs, and about which."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

import psutil
import pytest

from tests.browser.lab import PATIENCE, Lab, jupyterlab
from tests.whole_runs.conftest import Shell, cell, state_of, until

NAMES = ["runs", "run", "stop", "decide", "start"]


@pytest.fixture(scope="module")
def lab(clean_environment: Path) -> Iterator[Lab]:
    """One server for all tests here."""
    with tempfile.TemporaryDirectory(prefix="lab-", dir=clean_environment) as folder:
        root = Path(folder) / "root"
        (root / "project").mkdir(parents=True)
        (root / "project" / "README.md").write_text("# project\n")
        with jupyterlab(root) as started:
            yield started


def ask(
    lab: Lab,
    name: str,
    body: object = None,
    *,
    token: str | None = None,
    opener: OpenerDirector | None = None,
    xsrf: str | None = None,
    **query: str,
) -> tuple[int, Any]:
    """The status and what is answered."""
    token = lab.token if token is None else token
    request = Request(
        f"{lab.url}rlm-nb/{name}?{urlencode(query)}",
        data=None if body is None else json.dumps(body).encode(),
        headers=({"Authorization": f"token {token}"} if token else {}) | ({"X-XSRFToken": xsrf} if xsrf else {}),
    )
    try:
        with (opener or build_opener()).open(request, timeout=PATIENCE) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_answered_who_is_not_logged_in(name: str, lab: Lab) -> None:
    """Without a token, with a wrong one, as a visitor of the page to log in, and logged in from another site's page."""
    body = None if name in ("runs", "run") else {"run": "project", "folder": "project", "task": "x"}
    assert ask(lab, name, body, token="", run="project")[0] == 403
    assert ask(lab, name, body, token="wrong", run="project")[0] == 403
    visitor = HTTPCookieProcessor(CookieJar())
    with build_opener(visitor).open(f"{lab.url}login", timeout=PATIENCE):
        [xsrf] = [cookie.value for cookie in visitor.cookiejar if cookie.name == "_xsrf"]
    assert ask(lab, name, body, token="", opener=build_opener(visitor), xsrf=xsrf, run="project")[0] == 403
    jar = build_opener(HTTPCookieProcessor(CookieJar()))
    with jar.open(f"{lab.url}lab?token={lab.token}", timeout=PATIENCE):
        pass
    if body is None:
        assert ask(lab, "runs", token="", opener=jar)[0] == 200
    else:
        assert ask(lab, name, body, token="", opener=jar)[0] == 403
    assert not (lab.folder / "project" / "runs").exists()


def test_only_what_is_below_the_root_is_answered_about(lab: Lab, tmp_path: Path) -> None:
    """Not what is above or beside it, by whatever way it is named, nor what is hidden, nor what is no run."""
    outside = lab.folder.parent / "outside" / "run"
    outside.mkdir(parents=True)
    (outside / "run.json").write_text("{}")
    hidden = lab.folder / ".hidden"
    shutil.copytree(outside, hidden)
    (lab.folder / "link").symlink_to(outside)
    (lab.folder / "hiding").symlink_to(hidden)
    (lab.folder / "circle").symlink_to("circle")
    refused = {
        "../outside/run": 403,
        "project/../../outside/run": 403,
        str(outside): 403,
        "//outside": 403,
        "project/../project": 403,
        "link": 403,
        "link/run.json": 403,
        ".hidden": 404,
        "hiding": 404,
        "circle": 404,
        "project": 404,
        "": 404,
        "nowhere": 404,
        "project/README.md": 404,
    }
    for path, status in refused.items():
        assert ask(lab, "run", run=path)[0] == status, path
        assert ask(lab, "stop", {"run": path})[0] == status, path
        assert ask(lab, "decide", {"run": path, "agent": "root", "key": "x"})[0] == status, path
        if status == 403 or "hid" in path:
            assert ask(lab, "runs", folder=path)[0] == status, path
            assert ask(lab, "start", {"folder": path, "task": "x"})[0] == status, path
    assert [ask(lab, "stop", {"run": other})[0] for other in (None, 7, ["project"], "a\0b")] == [400] * 4
    assert ask(lab, "stop", ["run"])[0] == 400
    assert ask(lab, "runs", folder="project") == (200, [])
    (lab.folder / "project" / "runs").symlink_to(outside.parent)
    assert ask(lab, "runs", folder="project") == (200, [])
    assert ask(lab, "start", {"folder": "project", "task": "x"})[0] == 403
    (lab.folder / "project" / "runs").unlink()


def test_a_run_that_cannot_begin_says_why(lab: Lab) -> None:
    """With what the command says; nonsense is refused before there is a process."""
    status, said = ask(lab, "start", {"folder": "project", "task": "Work"})
    assert (status, "ANTHROPIC_API_KEY" in said) == (409, True), said
    for wrong in ({"task": ""}, {"task": "-"}, {"task": "a\0"}, {"task": "x", "max_cost": "1"}, {"task": 1}):
        assert ask(lab, "start", {"folder": "project"} | wrong)[0] == 400, wrong
    assert ask(lab, "start", {"folder": "nowhere", "task": "x"})[0] == 404


def test_a_run_is_started_seen_decided_about_and_stopped(lab: Lab, tmp_path: Path) -> None:
    """What the panel does, without the panel; what is asked of a run that has ended is refused."""
    shell = Shell(tmp_path)
    waiting = "import time\nwhile True: time.sleep(0.05)"
    model = shell.script({"root": [cell("x = 1"), cell(waiting)]})
    body = {"folder": "project", "task": "Work", "model": model, "max_cost": 0.5, "approve": True}
    status, started = ask(lab, "start", body)
    assert status == 200, started
    run = started["run"]
    until(lambda: ask(lab, "run", run=run)[1]["waiting"])
    shown = ask(lab, "run", run=run)[1]
    [proposal] = shown["waiting"]
    assert (shown["status"], shown["reachable"], proposal["code"]) == ("running", True, ["x = 1"])
    assert {bar["kind"]: bar["limit"] for bar in shown["budget"]}["cost_usd"] == 0.5
    assert ask(lab, "decide", {"run": run, "agent": "../root", "key": "x"})[0] == 409
    assert ask(lab, "decide", {"run": run, "agent": "root", "key": proposal["key"], "code": "x"})[0] == 400
    assert ask(lab, "decide", {"run": run, "agent": "root", "key": proposal["key"]})[0] == 200
    until(lambda: [one["number"] for one in ask(lab, "run", run=run)[1]["waiting"]] == [2])
    [listed] = ask(lab, "runs", folder="project/runs")[1]
    assert (listed["run"], listed["status"], listed["task"]) == (run, "running", "Work")
    assert ask(lab, "start", {"folder": run, "task": "x"})[0] == 409
    assert ask(lab, "stop", {"run": run})[0] == 200
    process = state_of(lab.folder / run)["pid"]
    until(lambda: not psutil.pid_exists(process))
    shown = ask(lab, "run", run=run)[1]
    assert (shown["status"], shown["reachable"], shown["tree"]["status"]) == ("partial", False, "partial")
    assert ask(lab, "stop", {"run": run})[0] == 409
