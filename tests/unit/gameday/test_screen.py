"""The screen fits its terminal, the story is told once, and the table says what the verdict says."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from outlast.core.clock import ManualClock
from outlast.gameday.day import Moments
from outlast.gameday.folder import Folder
from outlast.gameday.ledger import Ledger, Promise
from outlast.gameday.look import Look
from outlast.gameday.record import Failover, Note, Record, RequestRecord
from outlast.gameday.report import show, summarise
from outlast.gameday.screen import picture, progress_line, shown
from outlast.gameday.story import Teller
from outlast.gameday.verdict import Checked, judge
from outlast.gameday.view import Actor, View

NAMES = ("site", "appliance", "local", "tsa-1", "tsa-2")


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    """A view in the middle of a day."""
    clock, ledger = ManualClock(), Ledger(tmp_path / "ledger.jsonl")
    made = View(
        clock=clock,
        wanted=200,
        ledger=ledger,
        record=Record(),
        actors={name: Actor(name, "up", 1234) for name in NAMES},
        start_ms=clock.now_ms(),
    )
    clock.advance(12_300)
    yield made
    ledger.close()


def drawn(view: View, width: int, height: int) -> list[str]:
    """The picture's lines on a terminal of that size."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    console.print(picture(view, console))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (200, 60)])
def test_picture_fits(view: View, width: int, height: int) -> None:
    """However long the story and its lines, the picture leaves a line free, and shows the newest."""
    for number in range(50):
        view.say(f"number {number} " + "and much more " * 20)
    lines = drawn(view, width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert any("number 49" in line for line in lines)


def test_picture_names_trouble(view: View) -> None:
    """A site that does not answer is shown as that, and so is what the client repeats."""
    view.troubles = {1: "ConnectError", 2: "ConnectError"}
    text = "\n".join(drawn(view, 120, 40))
    assert "no answer" in text
    assert "2 asked again (ConnectError)" in text


@pytest.mark.anyio
async def test_lines_where_there_is_no_terminal(view: View) -> None:
    """Without a terminal each line of the story is printed once, also the last one."""
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=False)
    view.phase = "first phase"
    async with shown(view, console):
        view.say("one thing")
        await asyncio.sleep(0.3)
        view.say("the last thing")
    text = out.getvalue()
    assert "-- first phase" in text
    assert text.count("one thing") == text.count("the last thing") == 1
    assert "\x1b" not in text


def test_story_is_told_once(view: View) -> None:
    """What the record says is told when it is new: notes, failovers (many at once summed up), debts."""
    teller, record, at_ms = Teller(view), view.record, view.clock.now_ms()
    record.notes.append(Note(at_ms, "ejected", "appliance", "3 failures in a row"))
    record.notes.append(Note(at_ms, "mode", "degraded", "normal"))
    record.failovers += [Failover(at_ms, "local", "appliance", 20 + i) for i in range(5)]
    record.requests["a"] = RequestRecord("a", owed=True)
    teller.tell()
    teller.tell()
    assert [happening.text for happening in view.happenings] == [
        "appliance is left alone: 3 failures in a row",
        "mode normal → degraded",
        "failover appliance → local, 20 ms",
        "failover appliance → local, 21 ms",
        "failover appliance → local, 22 ms",
        "failover of 2 more that came with them, 24 ms at most",
        "no authority answers: released now, the timestamp is owed",
    ]
    record.requests["a"].settled = 1
    teller.tell()
    assert [happening.text for happening in view.happenings][7:] == [
        "first owed timestamp settled",
        "all 1 owed timestamps settled",
    ]


def test_table_tells_faults(view: View, tmp_path: Path) -> None:
    """A day on which a promise was broken ends with its name, and without "Proven"."""
    promise = Promise(
        key="order-1",
        request="gone",
        document="d",
        index=1,
        asked_ms=view.start_ms,
        acked_ms=view.start_ms + 7,
        attempts=1,
    )
    view.ledger.acknowledged(promise)
    verdict = judge(200, view.ledger.promises, view.record, [], Checked(log_says="forked"))
    look = Look("order-1", "( cd DATA/look && openssl version )")
    summary = summarise(verdict, view, Moments(), Folder(tmp_path / "demo data"), look)
    out = io.StringIO()
    show(summary, view, Console(file=out, width=100, force_terminal=False))
    text = out.getvalue()
    assert not summary.ok
    assert "Not proven" in text
    assert "order-1: acknowledged, but its request is not in the log" in text
    assert "forked" in text
    assert f"'{tmp_path / 'demo data'}'/look" in text
    assert summary.timings.slowest_answer_ms == 7
    assert summary.timings.site_back_ms is None


def test_progress_line(view: View) -> None:
    """First what is accepted and signed, then what is verified."""
    assert progress_line(view).startswith("accepted 0/200, signed 0")
    view.verified, view.to_verify = 3, 400
    assert progress_line(view) == "verified 3/400"
