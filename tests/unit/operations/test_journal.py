"""Journals: what lines are taken, how they are counted, and that a batch is whole."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Committer, Idempotency, Planner
from outlast.core.decider import Deciders
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.log.entry import MAX_ENTRY_BYTES, decode_entry
from outlast.core.store.port import StreamKey
from outlast.operations.api import Journals
from outlast.operations.lines import MAX_DEPTH, MAX_LINES, parse_lines
from outlast.operations.model.journal import KIND, Journal, JournalDecider, JournalRecorded
from outlast.testing.store import MemoryStore

pytestmark = pytest.mark.anyio

LONG = 60_000
GOOD = b'{"a":1,"b":[{"c":"x"}],"d":"\xc3\xa9"}'


def nested(depth: int) -> bytes:
    """A line that nests so deep."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def refused(body: bytes, longest: int = LONG) -> Refused:
    """Why a batch is refused."""
    with pytest.raises(Refused) as caught:
        parse_lines(body, longest)
    return caught.value


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(GOOD, id="compact"),
        pytest.param(b'{"a": 1, "b": null}', id="spaces"),
        pytest.param(b'{"a":"\\u00e9","b":1.50,"c":1e3}', id="other-spellings"),
        pytest.param(b'{"a":"{[\\"' + b"{" * 200 + b'"}', id="brackets-in-text"),
        pytest.param(b'{"a":{"x":1},"b":{"x":1}}', id="same-name-elsewhere"),
        pytest.param(nested(MAX_DEPTH), id="deep"),
        pytest.param(b"{}", id="empty-object"),
    ],
)
def test_good_lines_stay_as_they_are(line: bytes) -> None:
    """Whatever its spelling, a JSON object comes out byte by byte, alone and among others."""
    assert parse_lines(line, LONG) == (line,)
    assert parse_lines(GOOD + b"\r\n" + line + b"\n\n", LONG) == (GOOD, line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "object"),
        (b"1", "object"),
        (b'{"a":NaN}', "malformed"),
        (b'{"a":-Infinity}', "malformed"),
        (b'{"a":1e999}', "range"),
        (b'{"a":' + b"9" * 5_000 + b"}", "range"),
        (b'{"a":"\xff"}', "utf-8"),
        (b'{"a":"\\ud800"}', ""),
        (b'{"a":1', ""),
        (b'{"a":1}{"b":2}', "trailing"),
        (b"", "blank"),
        (b'{"a":1,"a":2}', "'a' comes twice"),
        (b'{"b":{"a":1,"\\u0061":2}}', "'a' comes twice"),
        (b'{"b":[{"k":1, "k":1}]}', "'k' comes twice"),
        (nested(MAX_DEPTH + 1), "nested"),
        (b'{"a":' + b"[" * 30_000, "nested"),
        (b"\xef\xbb\xbf{}", "malformed"),
    ],
)
def test_bad_line_is_named(line: bytes, words: str) -> None:
    """The batch is refused, with the number of the line and what is wrong with it."""
    error = refused(b"\n".join([GOOD, GOOD, line, GOOD]))
    assert (error.code, error.scope) == ("entry-malformed", "line/3")
    assert error.message.startswith("line 3: ")
    assert words in error.message


def test_size_and_number_are_bounded() -> None:
    """A line too long is named; no line, or too many, are no batch."""
    error = refused(GOOD + b'\n{"a":"' + b"x" * 100 + b'"}', longest=100)
    assert (error.code, error.scope) == ("entry-too-large", "line/2")
    assert len(parse_lines(b"{}\n" * MAX_LINES, LONG)) == MAX_LINES
    for body in (b"", b" \n\r\n", b"{}\n" * (MAX_LINES + 1)):
        assert refused(body).code == "batch-size"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=5)
PIECES = (
    b'{"a":',
    b"1",
    b"}",
    b"{}",
    b"\n",
    b",",
    b'"a":',
    b"[",
    b"]",
    b'"',
    b"\\u0061",
    b" ",
    b"NaN",
    b"\xff",
)


@settings(max_examples=40)
@given(st.lists(objects, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_any_object_is_taken_in_any_spelling(
    said: list[dict[str, object]], compact: bool, ascii_only: bool
) -> None:
    """What a JSON encoder writes comes through byte by byte and means the same, whether it takes the short way or not."""
    separators = (",", ":") if compact else None
    lines = [
        json.dumps(one, separators=separators, ensure_ascii=ascii_only).encode() for one in said
    ]
    assert parse_lines(b"\n".join(lines), LONG) == tuple(lines)


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_what_is_taken_is_json_to_everybody(body: bytes) -> None:
    """Whatever comes is refused by our own error, or is objects that another parser reads, no member twice."""
    try:
        lines = parse_lines(body, LONG)
    except Refused:
        return
    for line in lines:
        pairs = json.loads(line, object_pairs_hook=list)
        assert isinstance(pairs, list)
        assert len({name for name, _ in pairs}) == len(pairs)


class Bench:
    """Journals on a store of dictionaries."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.refusal: OutlastError | None = None
        planner = Planner(Deciders([JournalDecider()]), HybridClock(self.clock), "site-a")
        committer = Committer(self.store, planner, self.clock)
        self.journals = Journals(committer, self.store, self.clock, "site-a", lambda: self.refusal)

    async def append(self, body: bytes, key: str = "", journal: str = "billing") -> int:
        """The index of the first of its entries."""
        idempotency = Idempotency(key, body) if key else None
        receipt = await self.journals.append("acme", "key:1", journal, body, idempotency)
        return receipt.index


async def test_lines_are_entries_in_order() -> None:
    """Each line is an entry of its journal's stream with the caller's bytes under ``data``; the state counts."""
    bench = Bench()
    body = b'{"n":1}\n{"n": 2}\n{"n":3}'
    assert await bench.append(body) == 0
    assert await bench.append(b'{"n":4}') == 3
    leaves = await bench.store.entries(0, 10)
    entries = [decode_entry(leaf) for leaf in leaves]
    assert [e.type for e in entries] == ["journal.recorded"] * 4
    assert [e.seq for e in entries] == [1, 2, 3, 4]
    assert {e.stream for e in entries} == {"operations.journal/billing"}
    said = [msgspec.json.decode(e.data, type=JournalRecorded).data for e in entries]
    assert [bytes(line) for line in said] == [*body.split(b"\n"), b'{"n":4}']
    assert json.loads(leaves[1])["data"] == {"data": {"n": 2}}
    row = await bench.store.stream(StreamKey("acme", KIND, "billing"))
    assert row is not None
    assert msgspec.json.decode(row.state, type=Journal).entries == 4


async def test_a_bad_line_keeps_the_whole_batch_out() -> None:
    """All or nothing."""
    bench = Bench()
    with pytest.raises(Refused):
        await bench.append(b'{"n":1}\n{"n":NaN}')
    assert await bench.store.entries(0, 10) == []


async def test_the_same_key_is_answered_again() -> None:
    """Also when nothing new is taken any longer; another body under it is refused."""
    bench = Bench()
    assert await bench.append(b'{"n":0}') == 0
    assert await bench.append(b'{"n":1}', key="k") == 1
    bench.refusal = Unavailable("read-only", "no")
    assert await bench.append(b'{"n":1}', key="k") == 1
    with pytest.raises(Unavailable):
        await bench.append(b'{"n":2}', key="other")
    bench.refusal = None
    with pytest.raises(Refused, match="another body"):
        await bench.append(b'{"n":2}', key="k")
    assert len(await bench.store.entries(0, 10)) == 2


async def test_the_longest_line_fits_its_entry() -> None:
    """A line of the length that is allowed makes an entry the log takes, one byte more is refused by its number."""
    bench = Bench()

    def line(size: int) -> bytes:
        return b'{"a":"' + b"x" * (size - 8) + b'"}'

    with pytest.raises(Refused) as caught:
        await bench.append(line(MAX_ENTRY_BYTES))
    longest = int(caught.value.message.split()[-2])
    await bench.append(b"{}\n" + line(longest))
    assert MAX_ENTRY_BYTES - 60 < len((await bench.store.entries(1, 1))[0]) <= MAX_ENTRY_BYTES
    with pytest.raises(Refused) as caught:
        await bench.append(b"{}\n" + line(longest + 1))
    assert (caught.value.code, caught.value.scope) == ("entry-too-large", "line/2")


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "a" * 101, "\u00e9"])
async def test_a_journal_has_a_plain_name(name: str) -> None:
    """Its name is part of entries, paths and logs."""
    with pytest.raises(Refused, match="name"):
        await Bench().append(GOOD, journal=name)
