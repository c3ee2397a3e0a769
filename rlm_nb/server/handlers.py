"""The addresses that the panel asks: what runs there are, how one stands, and what a person wants of it.

Every answer is for who is logged in to the server, and about what is below its root folder.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado.web import HTTPError, authenticated

from rlm_nb import control
from rlm_nb.errors import RLMError
from rlm_nb.server import looking
from rlm_nb.server.places import below
from rlm_nb.server.starting import Starter, Wanted

LONGEST = 100_000
"""Characters of a task; the system takes no longer argument."""


def handlers(base_url: str) -> list[tuple[Any, ...]]:
    """Who answers at which address."""
    starter = Starter()
    found: dict[str, tuple[Any, ...]] = {
        "runs": (Runs,),
        "run": (Run,),
        "stop": (Stop,),
        "decide": (Decide,),
        "start": (Start, {"starter": starter}),
    }
    return [(url_path_join(base_url, "rlm-nb", name), *handler) for name, handler in found.items()]


class Handler(APIHandler):
    """What all of them share. `APIHandler` lets nobody in who comes from another site."""

    auth_resource = "rlm-nb"

    @property
    def root(self) -> Path:
        """The server's root folder, all links followed."""
        return Path(self.settings["server_root_dir"]).expanduser().resolve()

    def below(self, path: object) -> Path:
        """What the path means, if that is below the root and may be seen. Raises `HTTPError`."""
        return below(self.root, path, hidden=self.contents_manager.allow_hidden)

    def run_at(self, path: object) -> Path:
        """The folder of a run. Raises `HTTPError`."""
        folder = self.below(path)
        if not looking.is_run(folder):
            raise HTTPError(404, "there is no run")
        return folder

    def body(self) -> dict[str, Any]:
        """What was sent. Raises `HTTPError`."""
        body = self.get_json_body()
        if not isinstance(body, dict):
            raise HTTPError(400, "an object is wanted")
        return body

    def tell(self, value: object) -> None:
        """Answer; what a lone surrogate stands for is no reason not to."""
        self.finish(json.dumps(value))


class Runs(Handler):
    """The runs that are recorded in a folder, or near it."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """The latest first."""
        folder = self.below(self.get_argument("folder", ""))
        self.tell(await asyncio.to_thread(looking.runs, self.root, folder))


class Run(Handler):
    """One run."""

    @authenticated
    @authorized
    async def get(self) -> None:
        """How it stands: its agents, its budget, and what waits for a decision."""
        folder = self.run_at(self.get_argument("run"))
        specs = await asyncio.to_thread(self.kernel_spec_manager.get_all_specs)
        try:
            self.tell(await asyncio.to_thread(looking.run, self.root, folder, looking.live_kernels(specs, folder)))
        except RLMError as error:
            raise HTTPError(404, str(error)) from error


class Stop(Handler):
    """Stops a run, or one of its agents."""

    @authenticated
    @authorized
    async def post(self) -> None:
        """With `run`, and `agent` or none."""
        body = self.body()
        folder = self.run_at(body.get("run"))
        _wanted(control.stop, folder, body.get("agent"))
        self.tell({})


class Decide(Handler):
    """Decides about what an agent's model proposes."""

    @authenticated
    @authorized
    async def post(self) -> None:
        """With `run`, `agent` and `key`; `code` for other cells, `skip` for none, `said` for a word with that."""
        body = self.body()
        folder = self.run_at(body.get("run"))
        code, said = body.get("code"), body.get("said", "")
        texts = [said, body.get("agent"), body.get("key"), *(code if isinstance(code, list) else [])]
        if not isinstance(code, list | None) or not all(isinstance(text, str) for text in texts):
            raise HTTPError(400, "code is a list of texts, and what is said is a text")
        _wanted(
            control.decide,
            folder,
            body["agent"],
            body["key"],
            code=code,
            skip=body.get("skip") is True,
            said=said,
        )
        self.tell({})


class Start(Handler):
    """Starts a run on a folder."""

    def initialize(self, starter: Starter) -> None:
        """Keep who starts it."""
        self._starter = starter

    @authenticated
    @authorized
    async def post(self) -> None:
        """With `folder` and `task`; `model`, `max_cost` and `approve` as wanted. Answers once the run has begun."""
        body = self.body()
        folder, runs = self.below(body.get("folder")), self.below(f"{body.get('folder') or '.'}/runs")
        task, model, cost = body.get("task"), body.get("model") or "", body.get("max_cost")
        if not isinstance(task, str) or task.strip() in ("", "-") or len(task) > LONGEST or "\0" in task:
            raise HTTPError(400, "say in words what is to be done")
        if not isinstance(model, str) or "\0" in model or type(cost) not in (int, float, type(None)):
            raise HTTPError(400, "the model is a name, and the most it may cost a number")
        if not folder.is_dir():
            raise HTTPError(404, "there is no such folder")
        if looking.is_run(folder):
            raise HTTPError(409, "this is the folder of a run; show the one with your files in the file browser")
        wanted = Wanted(folder, runs, task, model, cost, body.get("approve") is True)
        try:
            run = await asyncio.to_thread(self._starter.start, wanted)
        except RLMError as error:
            raise HTTPError(409, str(error)) from error
        self.tell({"run": str(run.relative_to(self.root))})


def _wanted(act: Any, *arguments: Any, **more: Any) -> None:
    try:
        act(*arguments, **more)
    except RLMError as error:
        raise HTTPError(409, str(error)) from error
