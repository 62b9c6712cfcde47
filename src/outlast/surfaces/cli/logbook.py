"""Reads a log's files: entries for people, proofs for others. The site may be running meanwhile."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from outlast.core.clock import hlc_ms, iso
from outlast.core.errors import Refused
from outlast.core.log.archive import TileArchive
from outlast.core.log.entry import decode_entry
from outlast.core.log.proof import format_proof, make_proof
from outlast.surfaces.cli.invocation import Invocation
from outlast.surfaces.cli.tables import short_time

LAST = 20
"""Entries shown where nothing else is asked for."""
LOOK_EVERY_S = 0.25


class Proven(msgspec.Struct, frozen=True):
    """What was written."""

    index: int
    size: int
    proof: str
    entry: str


def log_directory(cli: Invocation, given: Path | None) -> Path:
    """The folder with checkpoint and tiles. Raises Refused ``log-not-found``."""
    from outlast.wiring.site import data_log

    directory = given or data_log(cli.config)
    if not (directory / "checkpoint").is_file():
        raise Refused(
            "log-not-found",
            f"{directory} holds no log",
            hint="--log names the folder with `checkpoint` in it, --data a site's data folder.",
        )
    return directory


def show_entries(
    cli: Invocation, directory: Path, start: int | None, limit: int, *, is_following: bool
) -> None:
    """Print entries from ``start`` on; following, until Ctrl-C."""
    archive = TileArchive(directory)
    size = archive.size
    at = max(0, size - (limit or LAST)) if start is None else min(start, size)
    if start is not None and start >= size and not is_following:
        cli.note(f"The published log has {size} entries, none from {start} on.")
    left = limit or sys.maxsize
    while True:
        end = min(archive.size, at + left)
        for encoded in archive.entries(at, end):
            _print(cli, at, encoded)
            at, left = at + 1, left - 1
        sys.stdout.flush()
        if not is_following or not left:
            return
        time.sleep(LOOK_EVERY_S)


def _print(cli: Invocation, index: int, encoded: bytes) -> None:
    if cli.json:
        sys.stdout.write(encoded.decode() + "\n")
        return
    entry = decode_entry(encoded)
    when = short_time(iso(hlc_ms(int(entry.hlc, 16))))
    what = _said(msgspec.json.decode(entry.data))
    sys.stdout.write(
        f"{index:>7}  {when}  {entry.type:<28} {entry.stream}#{entry.seq}  {entry.actor}{what}\n"
    )


_TOLD = ("provider", "outcome", "detail", "reason", "mode", "timestamp", "title")
"""Members of events that say most in a line."""


def _said(data: object) -> str:
    if not isinstance(data, dict):
        return ""
    pin = data.get("pin")
    told = {**(pin if isinstance(pin, dict) else {}), **data}
    parts = [
        f"{name}={told[name]}" for name in _TOLD if isinstance(told.get(name), str) and told[name]
    ]
    return "  " + " ".join(parts) if parts else ""


def write_proof(cli: Invocation, directory: Path, index: int, target: Path, entry: Path) -> None:
    """Write an entry and its inclusion proof."""
    archive = TileArchive(directory)
    checkpoint, published = archive.read_checkpoint(), archive.published()
    if checkpoint is None or published is None or index >= published.size:
        size = published.size if published else 0
        raise Refused("log-range", f"entry {index} is not in the published log of {size} entries")
    proof = make_proof(index, checkpoint, archive.node_reader(published.size))
    (encoded,) = archive.entries(index, index + 1)
    target.write_bytes(format_proof(proof))
    entry.write_bytes(encoded)
    answer = Proven(index, published.size, str(target), str(entry))
    cli.show(
        answer,
        lambda console: console.print(
            f"Wrote {target} and {entry}: entry {index} of {published.size}. Check it with"
            f" `outlast verify {target} --log-key KEY`.",
            markup=False,
            soft_wrap=True,
        ),
    )
