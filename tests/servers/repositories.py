"""A server on loopback that speaks git's plain HTTP protocol."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from tests.conftest import Git


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files as git's plain HTTP protocol wants them, to those who know the password if there is one."""

    def do_GET(self) -> None:
        """Answer 401 or the file."""
        wanted = self.server.password  # type: ignore[attr-defined]
        if wanted and self.headers["Authorization"] != b"Basic ".decode() + base64.b64encode(wanted).decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
        elif self.path.startswith("/echo"):
            self.send_response(403)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(b"refused: " + wanted + b" " + unquote(self.path).encode())
        else:
            # Git puts what it asks for behind the whole URL, and its own query behind that.
            self.path = re.sub(r"\?token=[^/&]*", "", self.path).replace("&", "?", 1)
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class RepositoryServer(http.server.ThreadingHTTPServer):
    """A web server on loopback."""

    password = b""


@contextmanager
def serving(repository: Path, folder: Path, git: Git) -> Iterator[RepositoryServer]:
    """A web server with a copy of the repository, kept in `folder`, at `/repo.git`."""
    git(repository, "clone", "--quiet", "--bare", repository, folder / "repo.git")
    git(folder / "repo.git", "update-server-info")
    with RepositoryServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
