"""The client of an authority over HTTP: what each kind of answer, and none, means."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from outlast.adapters.exchange import ExchangeLimits
from outlast.adapters.timestamp.rfc3161 import LIMITS, Credentials, Rfc3161Authority
from outlast.core.clock import SystemClock
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.rfc3161 import MAX_RESPONSE_BYTES
from outlast.testing.faultproxy import FaultProxy, Mode
from outlast.testing.timestamp import FakeAuthority

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()
DIGEST = hashlib.sha256(b"document").digest()
FAKE = FakeAuthority(CLOCK)
Answer = Callable[[bytes, bytes], bytes]


@asynccontextmanager
async def serving(answer: Answer, seen: list[bytes] | None = None) -> AsyncIterator[int]:
    """A server that answers each request with ``answer(head, body)``, bytes as they go over the wire."""

    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                if seen is not None:
                    seen.append(head)
                writer.write(answer(head, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running)
        await asyncio.sleep(0)


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    """An answer as bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def good(_: bytes, body: bytes) -> bytes:
    """A proper authority."""
    reply = "Content-Type: Application/Timestamp-Reply; x=y"
    return http("200 OK", FAKE._respond(body, None, 0), reply)


def client(port: int, limits: ExchangeLimits = LIMITS) -> Rfc3161Authority:
    """A client that trusts the fake."""
    return Rfc3161Authority(
        f"http://127.0.0.1:{port}/tsa?x=1", FAKE.rules, clock=CLOCK, name="one", limits=limits
    )


async def failure(attempt: Awaitable[object]) -> OutlastError:
    """What it raises."""
    with pytest.raises(OutlastError) as caught:
        await attempt
    return caught.value


async def test_requests_are_as_the_rfc_says() -> None:
    """POST to the configured path, with the two media types, over one connection that is kept."""
    seen: list[bytes] = []
    async with serving(good, seen) as port:
        authority = client(port)
        for _ in range(3):
            assert (await authority.stamp(DIGEST)).authority == "one"
        await authority.aclose()
    assert len(seen) == 3
    for head in seen:
        assert head.startswith(b"POST /tsa?x=1 HTTP/1.1\r\n")
        assert b"application/timestamp-query" in head


async def test_connections_are_kept() -> None:
    """One after the other, requests share a connection."""
    async with serving(good) as port, FaultProxy("127.0.0.1", port) as proxy:
        authority = client(proxy.port)
        for _ in range(5):
            await authority.stamp(DIGEST)
        await authority.aclose()
        assert proxy.accepted == 1


@pytest.mark.parametrize(
    ("answer", "kind", "code", "retry"),
    [
        (http("429 Slow Down", b"", "Retry-After: 7"), Unavailable, "throttled", "later"),
        (http("503 No", b"", "Retry-After: 7"), Unavailable, "throttled", "later"),
        (http("500 No"), Unavailable, "tsa-unavailable", "later"),
        (http("502 No"), Unavailable, "tsa-unavailable", "later"),
        (http("401 Who"), Refused, "provider-auth", "reauth"),
        (http("403 No"), Refused, "provider-auth", "reauth"),
        (http("404 Where"), Refused, "tsa-rejected", "elsewhere"),
        (
            http("302 Away", b"", "Location: http://127.0.0.1:1/"),
            Refused,
            "tsa-rejected",
            "elsewhere",
        ),
        (
            http("200 OK", b"<html>", "Content-Type: text/html"),
            Refused,
            "tsa-bad-token",
            "elsewhere",
        ),
        (http("200 OK", b""), Refused, "tsa-bad-token", "elsewhere"),
        (
            http("200 OK", b"noise", "Content-Type: application/timestamp-reply"),
            Refused,
            "tsa-bad-token",
            "elsewhere",
        ),
        (
            http(
                "200 OK",
                bytes(MAX_RESPONSE_BYTES + 1),
                "Content-Type: application/timestamp-reply",
            ),
            Unavailable,
            "provider-bad-answer",
            "later",
        ),
        (b"not HTTP at all\r\n\r\n", Unavailable, "provider-unreachable", "later"),
    ],
)
async def test_bad_answers(answer: bytes, kind: type[OutlastError], code: str, retry: str) -> None:
    """Each has its kind, code and advice."""
    async with serving(lambda *_: answer) as port:
        authority = client(port)
        error = await failure(authority.stamp(DIGEST))
        await authority.aclose()
    assert (type(error), error.code, error.retry) == (kind, code, retry)
    if code == "throttled":
        assert error.retry_after_s == 7


async def test_a_replayed_answer_is_refused() -> None:
    """An answer to an earlier request has another nonce, so a recorded one is worth nothing."""
    recorded: list[bytes] = []

    def replay(head: bytes, body: bytes) -> bytes:
        recorded.append(good(head, body))
        return recorded[0]

    async with serving(replay) as port:
        authority = client(port)
        await authority.stamp(DIGEST)
        error = await failure(authority.stamp(DIGEST))
        await authority.aclose()
    assert error.code == "tsa-bad-token"
    assert "nonce" in error.message


@pytest.mark.parametrize("mode", ["blackhole", "refuse", "reset", "half-close"])
@pytest.mark.parametrize("warm", [True, False], ids=["open connection", "new connection"])
async def test_broken_networks(mode: Mode, warm: bool) -> None:
    """Silence and broken connections, before and after there is a connection, are Unavailable within the limits;
    afterwards it works again."""
    # room for a busy machine: the same limits hold when it works again
    limits = ExchangeLimits(connect_timeout_s=1.5, answer_timeout_s=1.5, pool_timeout_s=1.5)
    async with serving(good) as port, FaultProxy("127.0.0.1", port) as proxy:
        authority = client(proxy.port, limits)
        if warm:
            await authority.stamp(DIGEST)
        await proxy.set(mode)
        with anyio.fail_after(10):
            error = await failure(authority.stamp(DIGEST))
            assert isinstance(error, Unavailable)
        await proxy.set("pass")
        assert (await authority.stamp(DIGEST)).authority == "one"
        await authority.aclose()


async def test_a_dripping_server_is_left() -> None:
    """An authority that sends a byte now and then does not hold the caller for longer than the limits."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X-Y: z\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    limits = ExchangeLimits(connect_timeout_s=0.2, answer_timeout_s=0.2, pool_timeout_s=0.2)
    authority = client(server.sockets[0].getsockname()[1], limits)
    with anyio.fail_after(3):
        assert isinstance(await failure(authority.stamp(DIGEST)), Unavailable)
    await authority.aclose()
    server.close()


async def test_check_asks_for_no_token() -> None:
    """The check is a GET, content with any answer that shows somebody is there."""
    seen: list[bytes] = []
    async with serving(lambda *_: http("405 No"), seen) as port:
        authority = client(port)
        await authority.check()
        await authority.aclose()
    assert seen[0].startswith(b"GET ")
    async with serving(lambda *_: http("503 No")) as port:
        authority = client(port)
        assert isinstance(await failure(authority.check()), Unavailable)
        await authority.aclose()


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (Credentials.basic("user", "pässword"), b"authorization: basic dxnlcjpww6rzc3dvcmq="),
        (Credentials.bearer("t0ken"), b"authorization: bearer t0ken"),
    ],
    ids=["basic", "bearer"],
)
async def test_credentials(credentials: Credentials, expected: bytes) -> None:
    """They go out with each request and show nowhere else."""
    seen: list[bytes] = []
    async with serving(good, seen) as port:
        authority = Rfc3161Authority(
            f"http://127.0.0.1:{port}", FAKE.rules, clock=CLOCK, name="one", credentials=credentials
        )
        await authority.stamp(DIGEST)
        await authority.aclose()
    assert expected in seen[0].lower()
    assert repr(credentials) == "Credentials(…)"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://tsa.example",
        "tsa.example",
        "http://",
        "http://u:p@tsa.example",
        "http://a:99999",
        "http://a\n",
    ],
)
async def test_unusable_urls_are_refused(url: str) -> None:
    """At configuration, not at the first signature."""
    with pytest.raises(Refused) as caught:
        Rfc3161Authority(url, FAKE.rules, clock=CLOCK, name="one")
    assert caught.value.code == "config-invalid"
    assert ":p@" not in str(caught.value)


async def test_credentials_in_the_clear_are_refused() -> None:
    """Over a network they need TLS."""
    with pytest.raises(Refused, match="without TLS"):
        Rfc3161Authority(
            "http://tsa.example/",
            FAKE.rules,
            clock=CLOCK,
            name="one",
            credentials=Credentials.bearer("t"),
        )
