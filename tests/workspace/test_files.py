"""Reading in a folder where somebody else is at work."""

from __future__ import annotations

import os

import pytest

from rlm_nb.workspace.files import LeftOut, Root, named
from rlm_nb.workspace.snapshot import Observer


def test_a_fifo_put_where_a_file_was_does_not_hold_us_up(tmp_path):
    """It is refused at once, though nobody ever writes into it."""
    os.mkfifo(tmp_path / "fifo")
    with Root(tmp_path) as root, pytest.raises(OSError, match="neither file nor link"), root.reading(b"fifo"):
        pass


def test_nothing_is_reached_through_a_link(tmp_path):
    """Neither a file behind a linked folder, nor one behind a linked name."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/folder").symlink_to("../outside")
    (tmp_path / "root/name").symlink_to("../outside/file")
    with Root(tmp_path / "root") as root:
        assert root.stat(b"folder/file") is None
        with pytest.raises(NotADirectoryError), root.reading(b"folder/file"):
            pass
        with root.reading(b"name") as (size, pieces):
            assert b"".join(pieces) == b"../outside/file"
        assert size == len("../outside/file")
    with pytest.raises(NotADirectoryError):
        Root(tmp_path / "root/folder")


def test_a_file_changed_in_the_same_instant_is_read_again(tmp_path):
    """The clock of a file system ticks every few milliseconds: size and times alone do not vouch for a new file."""
    observer = Observer("sha1")
    with Root(tmp_path) as root:
        for number in range(200):
            oids = set()
            for text in ("one", "two"):
                (tmp_path / "file").write_text(text)
                status = root.stat(b"file")
                assert status is not None
                oids.add(observer.observe(root, {b"file": status}, {}, LeftOut())[b"file"].oid)
            assert len(oids) == 2, number


def test_paths_are_shown_on_one_line_as_valid_text():
    """Bytes that are no UTF-8 and line breaks are written out; of many paths the first few are named."""
    assert named([b"b", b"a\nb", b"\xff"]) == "'a\\nb', b, \\xff"
    assert named([b"%d" % number for number in range(9)]) == "0, 1, 2, 3, 4 and 4 more"
