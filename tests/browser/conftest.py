"""A real Chromium for whoever has a page to show: one for each module, in a profile that is new and soon gone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.browser.lab import Lab, jupyterlab

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Seen:
    """A page, and everything that happened in it which a page of a report does not do.

    Args:
        page: To be looked at.
        requests: The addresses that were asked for, the page's own included; those of data are left out.
        said: Messages on the console, a violated policy among them, errors, dialogs, and windows that were opened.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


# For a module only: as long as it is open, Playwright has an event loop running in this thread, which others want, too.
@pytest.fixture(scope="module")
def chromium(clean_environment: Path) -> Iterator[BrowserContext]:
    """The browser, headless; `seen` is what a test wants."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium; on Debian and Ubuntu: apt install chromium")
    with (
        tempfile.TemporaryDirectory(prefix="chromium-", dir=clean_environment) as profile,
        sync_playwright() as playwright,
        playwright.chromium.launch_persistent_context(
            profile, executable_path=program, headless=True, args=FLAGS, viewport={"width": 1200, "height": 900}
        ) as context,
    ):
        yield context


@pytest.fixture
def seen(chromium: BrowserContext) -> Iterator[Seen]:
    """A new page in it."""
    page = chromium.new_page()
    result = Seen(page)
    page.on("request", lambda request: None if request.url[:5] == "data:" else result.requests.append(request.url))
    page.on("console", lambda message: result.said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: result.said.append(f"error: {error}"))
    page.on("popup", lambda window: result.said.append(f"window: {window.url}"))

    def dismiss(dialog):
        result.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", dismiss)
    yield result
    page.close()


@pytest.fixture
def lab(server: Lab, chromium: BrowserContext) -> Iterator[Lab]:
    """The server, with no kernel before and after."""
    yield server
    server.shut_down_kernels()


@pytest.fixture(scope="module")
def server(clean_environment: Path) -> Iterator[Lab]:
    """JupyterLab, one for each module, on a folder that agents may work on."""
    with tempfile.TemporaryDirectory(prefix="lab-", dir=clean_environment) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        (root / "README.md").write_text("# greeting\n\nSays hello.\n")
        with jupyterlab(root) as started:
            yield started
