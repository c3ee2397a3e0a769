"""A real JupyterLab on the loopback interface, and what a person does in it."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import nbformat
from playwright.sync_api import Locator, Page, TimeoutError, expect

PATIENCE = 60.0
"""Seconds that a server, a page or a cell may take."""

NOTHING_ELSE = {
    "LabApp": {
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "expose_app_in_browser": True,
        "news_url": None,
    },
    "ServerApp": {
        "allow_root": True,
        "open_browser": False,
        "port": 0,
        "ip": "127.0.0.1",
        "jpserver_extensions": {"jupyter_lsp": False},  # it looks for twenty programs, and is slow to end
    },
}


@dataclass
class Lab:
    """A server.

    Args:
        url: Where it is.
        token: What it wants to see.
        folder: Its root.
    """

    url: str
    token: str
    folder: Path

    def shut_down_kernels(self) -> None:
        """End every kernel, as the panel of running kernels does."""
        for session in self._ask("GET", "api/sessions"):
            self._ask("DELETE", f"api/sessions/{session['id']}")
        for kernel in self._ask("GET", "api/kernels"):
            self._ask("DELETE", f"api/kernels/{kernel['id']}")

    def start_kernel(self, name: str) -> str:
        """Start a kernel; returns its id."""
        return self._ask("POST", "api/kernels", {"name": name})["id"]

    def state_of_kernel(self, kernel: str) -> str:
        """What the server says of it; of one that is dead, soon nothing any more."""
        states = {one["id"]: one["execution_state"] for one in self._ask("GET", "api/kernels")}
        return states.get(kernel, "dead")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}{path}", data, {"Authorization": f"token {self.token}"}, method=method)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urlopen(request, timeout=PATIENCE) as answer:
                    return json.loads(answer.read() or b"null")
            except HTTPError as error:
                # jupyter_server cannot list its kernels while one of them is only just starting.
                if (method, error.code) != ("GET", 500) or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def write(self, name: str, *codes: str, kernel: str = "python3") -> None:
        """A notebook with these cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel}
        nbformat.write(notebook, self.folder / name)

    def open(self, page: Page, name: str, *, view: str = "lab/tree") -> Notebook:
        """Open a notebook, and wait for its kernel."""
        page.goto(f"{self.url}{view}/{quote(name)}?token={self.token}{'&reset' if view == 'lab/tree' else ''}")
        opened = Notebook(page)
        expect(opened.cells.first).to_be_visible(timeout=1000 * PATIENCE)
        # A page whose kernel is not there yet says that it is idle, too, and asks which one a cell is to be run in.
        end = time.monotonic() + PATIENCE
        while not any(one["path"] == name and one["kernel"]["connections"] for one in self._ask("GET", "api/sessions")):
            assert time.monotonic() < end
            page.wait_for_timeout(100)
        expect(page.locator(".jp-Notebook-ExecutionIndicator").first).to_have_attribute(
            "data-status", "idle", timeout=1000 * PATIENCE
        )
        return opened


@dataclass
class Notebook:
    """An open notebook."""

    page: Page

    @property
    def cells(self) -> Locator:
        """Its code cells."""
        return self.page.locator(".jp-Notebook .jp-CodeCell")

    def run(self, number: int) -> Locator:
        """Run a cell, counted from 0, as a person does; returns its output area."""
        cell = self.cells.nth(number)
        for _ in range(int(PATIENCE)):
            question = self.page.locator(".jp-Dialog")
            if question.is_visible():  # which kernel, where a cell was run before there was one
                question.locator("button.jp-mod-accept").click()
            with suppress(TimeoutError):  # the question came just now
                cell.locator(".cm-content").click(timeout=5000)
            self.page.keyboard.press("Shift+Enter")
            if self._is_taken(number):
                break
        return self.output(number)

    def _is_taken(self, number: int) -> bool:
        """Whether a cell is run: before there is a kernel it is not, or it is taken, and dropped a moment later."""
        prompt = self.cells.nth(number).locator(".jp-InputPrompt").first
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.page.wait_for_timeout(200)
            said = prompt.inner_text()
            if re.search(r"\d", said) or self.output(number).locator(".jp-OutputArea-child").count():
                return True
            if "*" not in said:
                return False
        return True

    def output(self, number: int) -> Locator:
        """What is below a cell."""
        return self.cells.nth(number).locator(".jp-OutputArea")

    def source(self, number: int) -> str:
        """What is in it."""
        return self.cells.nth(number).locator(".cm-content").inner_text()


@contextmanager
def jupyterlab(folder: Path, **variables: str) -> Iterator[Lab]:
    """A server on a folder; kernels and all else that it starts end with it."""
    runtime, token = folder.parent / "runtime", secrets.token_hex(8)
    settings = folder.parent / "settings.json"
    settings.write_text(json.dumps({**NOTHING_ELSE, "IdentityProvider": {"token": token}}))
    log = (folder.parent / "server.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", f"--config={settings}", f"--ServerApp.root_dir={folder}"],
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_PREFER_ENV_PATH": "1"} | variables,
        cwd=folder,
        stdout=log,
        stderr=log,
    )
    try:
        told = listening(server, runtime, folder.parent / "server.log")
        yield Lab(told["url"], token, folder)
    finally:
        stop(server)
        log.close()


def listening(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> dict[str, Any]:
    """What a server says of itself, once it answers: it says it when it has a port, and listens a moment later."""
    end = time.monotonic() + PATIENCE
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end
        with suppress(OSError, ValueError, StopIteration):
            told: dict[str, Any] = json.loads(next(runtime.glob("jpserver-*.json")).read_text())
            socket.create_connection(("127.0.0.1", told["port"])).close()
            return told
        time.sleep(0.1)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server whose kernels have been shut down. On a busy machine some extension of Jupyter's never stops."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
