"""A URL is fetched, its login stays secret, and whoever cannot be reached is named."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import CancelledError, SourceError
from rlm_nb.workspace.remote import Address, address, is_url
from tests.servers.repositories import RepositoryServer, serving

LOGIN = "ada:pa$s%2Fw'rd"
DECODED = b"ada:pa$s/w'rd"


@pytest.fixture
def server(repository: Path, git, tmp_path: Path) -> Iterator[RepositoryServer]:
    """A web server with the repository at `/repo.git`."""
    with serving(repository, tmp_path / "www", git) as server:
        yield server


def test_a_url_is_fetched_and_outlives_its_server(server, repository, git, open_source, check_out):
    """Branches and tags are there; no notice is needed; the agent works as in any other checkout."""
    url = f"http://127.0.0.1:{server.server_port}/repo.git"
    source = open_source(url)
    assert source.origin == url
    assert source.base == source.head == git(repository, "rev-parse", "HEAD").strip()
    assert source.notices == ()
    tree = check_out(source)
    assert git(tree.path, "status", "--porcelain") == ""
    assert not (source.ctl / "objects/info/alternates").exists()
    with pytest.raises(SourceError, match="no branch or tag 'mai'; did you mean main"):
        open_source(url, branch="mai")
    assert open_source(url, branch="main").base == source.base


def test_a_login_reaches_the_server_and_nobody_else(server, open_source, tmp_path):
    """Neither a message, nor the origin, nor a file of the run holds the password."""
    server.password = DECODED
    url = f"http://{LOGIN}@127.0.0.1:{server.server_port}/repo.git"
    source = open_source(url)
    assert source.origin == f"http://127.0.0.1:{server.server_port}/repo.git"
    server.password = b"another"
    with pytest.raises(SourceError, match="wants a login") as refused:
        open_source(url)
    server.password = DECODED
    with pytest.raises(SourceError, match="refused: ada:…") as echoed:
        open_source(f"http://{LOGIN}@127.0.0.1:{server.server_port}/echo")
    shown = [str(refused.value), str(echoed.value).replace("refused: ada:", ""), repr(source), *source.notices]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.glob("run-*/**/*") if path.is_file()]
    assert not [text for text in shown if "pa$s" in text or "ada:" in text]


def test_a_token_in_the_query_is_used_and_not_shown(server, open_source, check_out, tmp_path):
    """The server gets it; what is shown and recorded has dots instead, errors of git and of the server included."""
    place = f"http://127.0.0.1:{server.server_port}"
    source = open_source(f"{place}/repo.git?token=s3%2Fcr3t")
    assert source.origin == f"{place}/repo.git?…"
    assert source.notices[0].startswith("while git fetched, the query of the URL stood in the list of processes")
    assert (check_out(source).path / "README.md").exists()
    with pytest.raises(SourceError, match=r"nothing\?… cannot be fetched: ") as missing:
        open_source(f"{place}/nothing?token=s3%2Fcr3t")
    with pytest.raises(SourceError, match=r"refused:  /echo") as echoed:
        open_source(f"{place}/echo?token=s3%2Fcr3t&depth=1")
    assert "127.0.0.1" in str(echoed.value)
    with pytest.raises(SourceError, match="no branch or tag") as branch:
        open_source(f"{place}/repo.git?token=s3%2Fcr3t", branch="mai")
    shown = [*map(str, (missing.value, echoed.value, branch.value)), repr(source)]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.glob("run-*/**/*") if path.is_file()]
    assert not [text for text in shown if "cr3t" in text]


def test_a_missing_login_is_not_asked_for(server, open_source):
    """No prompt on a terminal, no window: a sentence."""
    server.password = DECODED
    with pytest.raises(SourceError, match="wants a login, or does not exist"):
        open_source(f"http://127.0.0.1:{server.server_port}/repo.git")


def test_what_cannot_be_reached_is_named(server, open_source, tmp_path):
    """A closed port, a page that is no repository, a missing file: each with its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (
        f"http://127.0.0.1:{port}/repo.git",
        f"http://127.0.0.1:{server.server_port}/nothing",
        f"git://127.0.0.1:{port}/repo.git",
        f"file://{tmp_path}/nothing",
    ):
        with pytest.raises(SourceError, match=f"{url}.* cannot be fetched: .*"):
            open_source(url)


def test_a_silent_server_is_left_when_the_run_is_cancelled(open_source):
    """Ctrl-C while it connects ends the transfer."""
    cancel = Cancellation()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cancel_once_asked() -> None:
            with server.accept()[0]:
                cancel.cancel("interrupted")

        watcher = threading.Thread(target=cancel_once_asked)
        watcher.start()
        with pytest.raises(CancelledError, match="interrupted"):
            open_source(f"http://127.0.0.1:{server.getsockname()[1]}/repo", cancel=cancel)
        watcher.join()


def test_an_empty_or_headless_repository_is_said_to_be_so(git, repository, open_source, tmp_path):
    """No commit at all; or branches, of which none is the default one."""
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    with pytest.raises(SourceError, match="is empty"):
        open_source(f"file://{tmp_path}/empty.git")
    git(tmp_path, "clone", "--quiet", "--bare", repository, "headless.git")
    git(tmp_path / "headless.git", "symbolic-ref", "HEAD", "refs/heads/gone")
    with pytest.raises(SourceError, match="which branch to start from: name one; did you mean main"):
        open_source(f"file://{tmp_path}/headless.git")
    assert open_source(f"file://{tmp_path}/headless.git", branch="main").base


def test_a_sha256_repository_is_fetched(git, open_source, check_out, tmp_path):
    """The run's repository follows the one that it fetches."""
    (tmp_path / "there").mkdir()
    git(tmp_path / "there", "init", "--quiet", "--object-format=sha256")
    (tmp_path / "there/file").write_text("one\n")
    git(tmp_path / "there", "add", "--all")
    git(tmp_path / "there", "commit", "--message=One")
    source = open_source(f"file://{tmp_path}/there")
    assert len(source.base) == 64
    assert (check_out(source).path / "file").read_text() == "one\n"


def test_a_hook_or_a_template_of_the_user_does_not_run(server, open_source, tmp_path):
    """The user's configuration reaches the server; it starts no program here."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    Path.home().joinpath(".gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n[init]\n\ttemplateDir = {hooks}\n")
    try:
        open_source(f"http://127.0.0.1:{server.server_port}/repo.git")
    finally:
        Path.home().joinpath(".gitconfig").unlink()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("https://example.org/a/b", Address("https://example.org/a/b", "https://example.org")),
        (
            "https://tok%40en@example.org:8443/a",
            Address("https://example.org:8443/a", "https://example.org:8443", ("tok@en", "")),
        ),
        (
            "https://ada:x@example.org/a?key=b",
            Address("https://example.org/a?…", "https://example.org", ("ada", "x"), "key=b"),
        ),
        ("ssh://git:secret@example.org/a", Address("ssh://git@example.org/a")),
        ("git@example.org:a/b.git", Address("git@example.org:a/b.git")),
        ("file:///a/b", Address("file:///a/b")),
    ],
)
def test_a_login_is_taken_out_of_a_url(where, found):
    """The user of an ssh address is part of it; over HTTP even a lone user may be a token."""
    assert is_url(where)
    assert address(where) == found


@pytest.mark.parametrize(
    "where",
    [
        "ftp://example.org/a",
        "ext::sh -c 'cat a://b'",
        "https:///nowhere",
        "https://u:se/cret@h/x",
        "u:secret@host:path",
    ],
)
def test_other_urls_are_refused_without_repeating_them(where):
    """They may run programs, or hold a password where nobody looks for it."""
    with pytest.raises(SourceError) as refused:
        address(where)
    assert "cret" not in str(refused.value)


def test_paths_are_no_urls():
    """A colon in a path does not make it an address."""
    assert not [where for where in ("/a/b", "./a:b", "a/b:c", "ext::sh -c id", "~/x") if is_url(where)]
