"""`outlast log append`: how a file is cut into batches, their keys, and what an interruption leaves."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any

import pytest

from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.surfaces.cli.appending import MAX_BATCH_BYTES, Appended, Batch, cut, send
from outlast.surfaces.http.wire import Accepted, ReceiptView

TEXT = b"".join(b'{"n":%d}\n' % n for n in range(25))


def batches(text: bytes, journal: str = "j", size: int = 10, from_line: int = 1) -> list[Batch]:
    """A text in batches."""
    return list(cut(io.BytesIO(text), journal, size, from_line))


class Site:
    """Keeps what it is sent, once by key; fails before its ``fail_at``-th batch."""

    def __init__(self) -> None:
        self.known: dict[str, Accepted] = {}
        self.log: list[bytes] = []
        self.fail_at = -1
        self.failure: OutlastError = Unavailable("site-unreachable", "gone")
        self.patience_s = 0.0

    async def lines(
        self,
        path: str,
        body: bytes,
        media: str,
        answer: type[Any],
        *,
        key: str,
        query: Mapping[str, str],
    ) -> tuple[Accepted, bool]:
        """As the API does it."""
        if key in self.known:
            return self.known[key], True
        if len(self.known) == self.fail_at:
            raise self.failure
        lines = body.splitlines()
        receipt = ReceiptView(
            stage="accepted", index=len(self.log), count=len(lines), hlc="", proof=None
        )
        self.log += lines
        self.known[key] = Accepted(id=query["journal"], url="", version=0, receipt=receipt)
        return self.known[key], False

    def append(self, text: bytes) -> Appended:
        """Run the command's core."""
        api: Any = self
        return asyncio.run(send(api, iter(batches(text)), "j", "file", lambda _b, _l: None))


def test_a_file_is_cut_by_lines_and_bytes() -> None:
    """Batches are whole lines, in order, of at most the lines and bytes that a site takes."""
    cuts = batches(TEXT)
    assert [(b.first, b.count) for b in cuts] == [(1, 10), (11, 10), (21, 5)]
    assert b"".join(b.body for b in cuts) == TEXT
    big = b'{"a":"' + b"x" * 400_000 + b'"}\n'
    assert [b.count for b in batches(big * 5)] == [2, 2, 1]
    assert batches(b"") == batches(b"\n \n") == []
    with pytest.raises(Refused, match="line 2 "):
        batches(b"{}\n" + b"x" * (MAX_BATCH_BYTES + 1))


def test_keys_tell_batches_apart() -> None:
    """The same file has the same keys; another journal, other lines before or in a batch have others."""
    keys = [b.key for b in batches(TEXT)]
    assert [b.key for b in batches(TEXT)] == keys
    assert len(set(keys)) == 3
    assert [b.key for b in batches(TEXT, from_line=11)] == keys[1:]
    for other in (batches(TEXT, "k"), batches(b"{}\n" + TEXT), batches(TEXT, size=9)):
        assert not {b.key for b in other} & set(keys)
    equal = batches(b"{}\n" * 20)
    assert equal[0].body == equal[1].body
    assert equal[0].key != equal[1].key


def test_run_again_it_goes_on_where_it_was() -> None:
    """After a failure the same command appends what is missing, and only that."""
    site = Site()
    site.fail_at = 2
    with pytest.raises(Unavailable) as caught:
        site.append(TEXT)
    assert "What is before line 21 is recorded" in caught.value.hint
    site.fail_at = -1
    done = site.append(TEXT)
    assert (done.lines, done.known, done.batches, done.index, done.last) == (25, 20, 3, 0, 24)
    assert site.log == TEXT.splitlines()
    assert site.append(TEXT).known == 25
    assert len(site.log) == 25


def test_a_bad_line_is_named_by_its_place_in_the_file() -> None:
    """The site counts from the batch's first line, a person from the file's."""
    site = Site()
    site.fail_at = 1
    site.failure = Refused("entry-malformed", "line 3: no object", scope="line/3", hint="Mend it.")
    with pytest.raises(Refused, match="line 13: no object") as caught:
        site.append(TEXT)
    assert caught.value.hint.startswith("What is before line 11 is recorded. Mend it. ")
