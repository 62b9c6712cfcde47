"""The game day's folder: what is in it, and that nothing of anybody else's is ever wiped.

demo-data/
  .outlast-demo        the marker: without it a folder that is not empty is refused
  outlast.toml         the site's configuration
  site/                the site's data: database, blobs, log, keys
  appliance/ tsa-1/ tsa-2/
  pki/                 the certificates that everything is verified against
  signed/ evidence/    what came out
  look/                one bundle, unpacked, for openssl
  ledger.jsonl         what the client was promised
  summary.json         the verdict
  output/              what each process printed
"""

from __future__ import annotations

import shutil
from pathlib import Path

from outlast.core.errors import Refused

MARKER = ".outlast-demo"
_MARKER_TEXT = "Made by `outlast demo`, which wipes this folder at its start.\n"


class Folder:
    """Where things are. `prepare` first."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config = self.root / "outlast.toml"
        self.site = self.root / "site"
        self.log = self.site / "log"
        self.pki = self.root / "pki"
        self.signed = self.root / "signed"
        self.evidence = self.root / "evidence"
        self.look = self.root / "look"
        self.checkpoint = self.root / "checkpoint"
        self.ledger = self.root / "ledger.jsonl"
        self.summary = self.root / "summary.json"
        self.output = self.root / "output"

    def prepare(self) -> None:
        """Make it anew. Raises Refused ``folder-not-ours`` where it holds something that no game day made."""
        if self.root.exists():
            self._wipe()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.root / MARKER).write_text(_MARKER_TEXT)
        for folder in (self.pki, self.signed, self.evidence, self.look, self.output):
            folder.mkdir(mode=0o700)

    def _wipe(self) -> None:
        if not self.root.is_dir() or self.root.is_symlink():
            raise _not_ours(self.root, "it is not a folder")
        content = list(self.root.iterdir())
        marker = self.root / MARKER
        if content and not (marker.is_file() and not marker.is_symlink()):
            raise _not_ours(self.root, f"it is not empty and has no {MARKER}")
        for item in content:
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif item != marker:
                item.unlink()
        marker.unlink(missing_ok=True)  # last: a wipe that was cut short can be done again


def _not_ours(root: Path, why: str) -> Refused:
    return Refused(
        "folder-not-ours",
        f"{root} will not be wiped: {why}",
        hint="Name another folder with --folder, or remove this one yourself.",
    )
