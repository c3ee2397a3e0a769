"""Files are put in their places all together, or everything is as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_nb.merging.placing import Places
from tests.workspace import witness


class Scene:
    """A folder with files, and new ones to be put there."""

    def __init__(self, folder: Path) -> None:
        self.top, self.new, self.outside = folder / "top", folder / "new", folder / "outside"
        self.workshop = folder / "workshop"
        for place in (self.top / "closed", self.new, self.outside, self.workshop):
            place.mkdir(parents=True)
        (self.top / "one").write_text("old one")
        (self.top / "closed/two").write_text("old two")
        (self.top / "closed").chmod(0o700)
        (self.outside / "file").write_text("outside")
        self.places = Places(self.top, self.workshop)

    def coming(self, *names: str) -> dict[bytes, Path]:
        files = {}
        for number, name in enumerate(names):
            self.places.look(name.encode())
            files[name.encode()] = self.new / str(number)
            files[name.encode()].write_text(f"new {name}")
        return files


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_file_that_somebody_else_has_just_written(scene: Scene) -> None:
    """What was looked at is not what is there: nothing is changed, folders and their modes included."""
    coming = scene.coming("new/file", "one")
    scene.places.look(b"closed/two")
    (scene.top / "one").write_text("old one")  # the same, but who knows what comes next
    before = witness.modes_and_bytes(scene.top)
    with pytest.raises(OSError, match="changed while the edits were applied"):
        scene.places.put([b"closed/two"], coming)
    assert witness.modes_and_bytes(scene.top) == before
    assert not (scene.workshop / "journal").exists()


def test_a_link_that_somebody_has_just_put_in_the_way(scene: Scene) -> None:
    """It is not written through."""
    coming = scene.coming("one", "sub/file")
    (scene.top / "sub").symlink_to(scene.outside)
    before = witness.everything(scene.outside), witness.modes_and_bytes(scene.top)
    with pytest.raises(NotADirectoryError):
        scene.places.put([], coming)
    assert (witness.everything(scene.outside), witness.modes_and_bytes(scene.top)) == before


def test_an_interrupt_in_the_middle(scene: Scene) -> None:
    """Is passed on, once all is as it was."""
    coming = scene.coming("one", "closed/three")
    scene.places.look(b"closed/two")
    before = witness.modes_and_bytes(scene.top)
    with pytest.raises(KeyboardInterrupt):
        scene.places.put(_Interrupted([b"closed/two"]), coming)
    assert witness.modes_and_bytes(scene.top) == before


class _Interrupted(list[bytes]):
    """Lists its items once, and is interrupted behind them the second time."""

    times = 0

    def __iter__(self) -> Iterator[bytes]:
        self.times += 1
        yield from super().__iter__()
        if self.times == 2:
            raise KeyboardInterrupt


def test_what_cannot_be_put_back_is_kept(scene: Scene) -> None:
    """The error names the folder that holds the old file; the journal stays there, too."""
    coming = scene.coming("one", "sub/file")

    class Vandal(dict[bytes, Path]):
        """While the second file is on its way, somebody puts a folder in the place of the first."""

        def items(self):  # type: ignore[no-untyped-def]
            for number, item in enumerate(super().items()):
                if number:
                    (scene.top / "one").unlink()
                    (scene.top / "one").mkdir()
                    (scene.top / "one/mine").write_text("mine")
                    (scene.top / "sub").symlink_to("nowhere")
                yield item

    with pytest.raises(OSError, match=re.escape(f"what stood there is in {scene.workshop}/aside")):
        scene.places.put([], Vandal(coming))
    assert [file.read_text() for file in (scene.workshop / "aside").iterdir()] == ["old one"]
    assert (scene.workshop / "journal").exists()
