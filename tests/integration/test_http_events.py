"""The event stream: in order, resumable, one tenant's only, and no burden when its reader is slow."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import pytest

from outlast.core import feed
from outlast.surfaces.http import events

pytestmark = pytest.mark.anyio


class Reader:
    """Reads server-sent events off an open answer."""

    def __init__(self, answer: Any) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, str]:
        """The next event; comments and retry lines are passed over."""
        event: dict[str, str] = {}
        with anyio.fail_after(10):
            async for line in self._lines:
                if not line and "event" in event:
                    return event
                name, _, value = line.partition(": ")
                if name in ("id", "event", "data"):
                    event[name] = value
        raise AssertionError("the stream ended")


async def test_entries_as_they_are_written(http_site: Any) -> None:
    """A follower sees its tenant's new entries, in order, with their log index as id."""
    async with http_site.client.stream("GET", "/v1/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        reader = Reader(answer)
        await asyncio.sleep(0.05)
        await http_site.document()
        await http_site.document()
        first, second = await reader.next(), await reader.next()
    assert first["event"] == second["event"] == "signing.document_added"
    assert int(second["id"]) > int(first["id"])
    assert json.loads(first["data"])["tenant"] == "default"


async def test_resuming_misses_and_repeats_nothing(http_site: Any) -> None:
    """A stream taken up with Last-Event-ID goes on with exactly the next entry of the tenant."""
    for _ in range(3):
        await http_site.document()
    async with http_site.client.stream("GET", "/v1/events?from=0") as answer:
        reader = Reader(answer)
        seen = [await reader.next() for _ in range(3)]
    headers = {"last-event-id": seen[0]["id"]}
    async with http_site.client.stream("GET", "/v1/events", headers=headers) as answer:
        reader = Reader(answer)
        again = [await reader.next() for _ in range(2)]
    assert again == seen[1:]


async def test_other_tenants_stay_unseen(http_site: Any) -> None:
    """A tenant's stream has none of another's entries, nor the site's own."""
    other = await http_site.key(tenant="quiet")
    await http_site.document()
    async with other.stream("GET", "/v1/events?from=0") as answer:
        reader = Reader(answer)
        await asyncio.sleep(0.05)
        await other.post("/v1/documents", content=b"mine", headers={"content-type": "text/x"})
        event = await reader.next()
    assert json.loads(event["data"])["tenant"] == "quiet"


async def test_quiet_stream_has_heartbeats(http_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing happens, a comment comes now and then."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    quiet = await http_site.key(tenant="quieter")
    async with quiet.stream("GET", "/v1/events") as answer:
        with anyio.fail_after(5):
            beats = []
            async for line in answer.aiter_lines():
                if line.startswith(": still here"):
                    beats.append(line)
                    break
    assert beats, "the stream ended without a heartbeat"


async def test_ids_that_are_none(http_site: Any) -> None:
    """A Last-Event-ID that this log never gave out is refused."""
    for wrong in ("x", "-1", "9" * 30, "999999999"):
        answer = await http_site.client.get("/v1/events", headers={"last-event-id": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, "cursor-invalid")


async def test_slow_reader_is_told_and_can_resume(
    http_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that falls behind what is kept in memory gets a last event; with its id it misses nothing."""
    monkeypatch.setattr(feed.Feed, "behind", lambda self, start: bool(self._recent))
    async with http_site.client.stream("GET", "/v1/events") as answer:
        await asyncio.sleep(0.05)
        await http_site.document()
        reader = Reader(answer)
        last = await reader.next()
        assert last["event"] == "outlast.too-slow"
    monkeypatch.undo()
    headers = {"last-event-id": last["id"]}
    async with http_site.client.stream("GET", "/v1/events", headers=headers) as answer:
        event = await Reader(answer).next()
    assert event["event"] == "signing.document_added"


async def test_a_reader_that_left_is_let_go(http_site: Any) -> None:
    """A stream that its client closed is counted no longer."""

    async def followers() -> float:
        lines = (await http_site.client.get("/metrics")).text.splitlines()
        return float(next(li for li in lines if li.startswith("outlast_event_streams")).split()[1])

    async def settles_at(count: int) -> bool:
        for _ in range(250):
            if await followers() == count:
                return True
            await asyncio.sleep(0.02)
        return False

    async with http_site.client.stream("GET", "/v1/events"):
        assert await settles_at(1)
    assert await settles_at(0)
