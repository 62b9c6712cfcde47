"""A game day wipes its own folder and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.core.errors import Refused
from outlast.gameday.folder import MARKER, Folder


def test_makes_and_remakes(tmp_path: Path) -> None:
    """A fresh folder is made; the second time everything from the first is gone."""
    folder = Folder(tmp_path / "demo")
    folder.prepare()
    (folder.signed / "old.pdf").write_text("old")
    (folder.root / "summary.json").write_text("{}")
    (folder.root / "link").symlink_to(tmp_path)
    folder.prepare()
    assert list(folder.signed.iterdir()) == []
    assert sorted(path.name for path in folder.root.iterdir()) == [
        MARKER, "evidence", "look", "output", "pki", "signed",
    ]  # fmt: skip
    assert tmp_path.is_dir()


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    """An empty folder is nobody's."""
    Folder(tmp_path).prepare()
    assert (tmp_path / MARKER).is_file()


@pytest.mark.parametrize("what", ["foreign", "file", "link", "marker is a link"])
def test_refuses_what_is_not_ours(tmp_path: Path, what: str) -> None:
    """A folder with anything else in it, a file, or a link is left untouched."""
    root = tmp_path / "demo"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("keep")
    if what == "foreign":
        root = mine
    elif what == "file":
        root.write_text("keep")
    elif what == "link":
        (mine / MARKER).write_text("")
        root.symlink_to(mine)
    else:
        root = mine
        (mine / MARKER).symlink_to(mine / "precious")
    with pytest.raises(Refused) as refused:
        Folder(root).prepare()
    assert refused.value.code == "folder-not-ours"
    assert (mine / "precious").read_text() == "keep"
