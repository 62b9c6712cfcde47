"""The HTTP exchange under adapters: every way a server can misbehave ends in one of three kinds, in time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from outlast.adapters.exchange import MAX_RETRY_AFTER_S, Exchange, ExchangeLimits
from outlast.adapters.keys.transit import TransitSigner
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.ports.keys import SignRequest
from outlast.testing.servers import free_port

pytestmark = pytest.mark.anyio

LIMITS = ExchangeLimits(
    connect_timeout_s=0.3,
    answer_timeout_s=0.3,
    pool_timeout_s=0.2,
    connections=2,
    answer_bytes=10_000,
)


@asynccontextmanager
async def server(answer: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """A TCP server that reads a request's head, then does what it is told; yields its address."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            try:
                await stream.receive()
                await answer(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass  # the client has given up, as it should

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{port}"
        group.cancel_scope.cancel()
    await listener.aclose()


def saying(*chunks: bytes, pause_s: float = 0.0) -> Callable[[SocketStream], Awaitable[None]]:
    """An answer of these bytes, with a pause before each."""

    async def answer(stream: SocketStream) -> None:
        for chunk in chunks:
            await anyio.sleep(pause_s)
            await stream.send(chunk)

    return answer


async def silent(stream: SocketStream) -> None:
    """Reads on and answers nothing."""
    while True:
        await stream.receive()


async def closing(stream: SocketStream) -> None:
    """Closes without a word."""


async def failure(
    url: str, *, effect: bool = True, limits: ExchangeLimits = LIMITS
) -> OutlastError:
    """What a POST to it raises; and that it takes no longer than its limits allow."""
    exchange = Exchange(url, scope="test", limits=limits)
    try:
        with anyio.fail_after(2):
            await exchange.call("POST", "/x", effect=effect, body=b"{}")
    except OutlastError as error:
        return error
    finally:
        await exchange.aclose()
    raise AssertionError("it answered")


BAD_ANSWERS = {
    "silent": (silent, "provider-answer-lost"),
    "closing": (closing, "provider-bad-answer"),
    "noise": (saying(b"\x00\x01\x02 noise\r\n\r\n"), "provider-bad-answer"),
    "half": (saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc"), "provider-bad-answer"),
    "endless-head": (saying(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000), "provider-bad-answer"),
    "too-large": (
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n" + b"x" * 20_000),
        "provider-bad-answer",
    ),
    "dripping": (
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n", *[b"x"] * 90, pause_s=0.1),
        "provider-answer-lost",
    ),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_bad_answer_is_unknown(name: str) -> None:
    """Whatever was sent back, it may have happened; without effect, it merely did not work."""
    answer, code = BAD_ANSWERS[name]
    async with server(answer) as url:
        error = await failure(url)
        assert isinstance(error, Unknown)
        assert (error.code, error.scope) == (code, "test")
        assert isinstance(await failure(url, effect=False), Unavailable)


async def test_nobody_there_is_unavailable_at_once() -> None:
    """A refused connection takes no timeout."""
    patient = ExchangeLimits(connect_timeout_s=60, answer_timeout_s=60, pool_timeout_s=60)
    error = await failure(f"http://127.0.0.1:{free_port()}", limits=patient)
    assert isinstance(error, Unavailable)
    assert error.code == "provider-unreachable"


async def test_a_full_backlog_is_unavailable() -> None:
    """A machine that does not take the connection (a black hole) is left after the connect timeout."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        filler = [socket.socket() for _ in range(4)]
        for one in filler:
            one.setblocking(False)
            one.connect_ex(hole.getsockname())
        error = await failure(f"http://127.0.0.1:{hole.getsockname()[1]}")
        for one in filler:
            one.close()
    assert isinstance(error, Unavailable)
    assert error.code == "provider-unreachable"


async def test_a_used_up_pool_is_unavailable() -> None:
    """More calls than connections wait pool_timeout_s, then are told that the provider is busy."""
    errors: list[OutlastError] = []
    async with server(silent) as url:
        exchange = Exchange(url, scope="test", limits=LIMITS)

        async def one() -> None:
            with pytest.raises(OutlastError) as caught:
                await exchange.call("POST", "/x", effect=True, body=b"{}")
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(one)
        await exchange.aclose()
    codes = sorted(error.code for error in errors)
    assert codes == ["provider-answer-lost"] * 2 + ["provider-busy"] * 2


async def test_redirects_are_not_followed() -> None:
    """A redirect is an answer like any other: credentials go to the configured server only."""
    text = b"HTTP/1.1 307 Elsewhere\r\nlocation: http://example.org/\r\ncontent-length: 0\r\n\r\n"
    async with server(saying(text)) as url:
        exchange = Exchange(url, scope="test", limits=LIMITS)
        assert (await exchange.call("GET", "/x", effect=False)).status == 307
        await exchange.aclose()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("999999999999", MAX_RETRY_AFTER_S),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
async def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds or a date, relative to the server's own clock, bounded; nonsense is nothing."""
    head = f"HTTP/1.1 429 Slow\r\nretry-after: {value}\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    async with server(saying(head.encode() + b"content-length: 0\r\n\r\n")) as url:
        exchange = Exchange(url, scope="test", limits=LIMITS)
        assert (await exchange.call("GET", "/x", effect=False)).retry_after_s == seconds
        await exchange.aclose()


async def test_headers_that_http_cannot_carry_are_refused() -> None:
    """A value with a line break never reaches the wire."""
    exchange = Exchange("http://127.0.0.1:1", scope="test", limits=LIMITS)
    for value in ("a\r\nx: y", "é", "\x00"):
        with pytest.raises(Refused, match="request-invalid"):
            await exchange.call("GET", "/x", effect=False, headers={"x": value})
    await exchange.aclose()


def http(status: int, body: str, headers: str = "") -> bytes:
    """An HTTP answer."""
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n{body}".encode()


KEY = (
    '{"data":{"type":"ed25519","supports_signing":true,"keys":{"1":{"public_key":'
    '"BZVCBnk+BMchws5VwSk/1PcC2CZHRuaoPBal/UI8NN8="},"2":{"public_key":"AAAA"},"3":1795299095}}}'
)
VAULT_ANSWERS = {
    "other-version": (
        200,
        '{"data":{"signature":"vault:v2:AAAA"}}',
        Unknown,
        "provider-bad-answer",
    ),
    "no-base64": (200, '{"data":{"signature":"vault:v1:A"}}', Unknown, "provider-bad-answer"),
    "no-signature": (200, '{"data":{"signature":""}}', Unknown, "provider-bad-answer"),
    "no-json": (200, "<html>", Unknown, "provider-bad-answer"),
    "other-json": (200, "[]", Unknown, "provider-bad-answer"),
    "denied": (403, '{"errors":["permission denied"]}', Refused, "credentials-refused"),
    "refused": (400, '{"errors":["no"]}', Refused, "request-refused"),
    "sealed": (503, '{"errors":["Vault is sealed"]}', Unavailable, "provider-sealed"),
    "throttled": (429, "", Unavailable, "provider-throttled"),
    "behind": (412, "", Unavailable, "provider-standby"),
    "standby": (473, "", Unavailable, "provider-standby"),
    "moved": (307, "", Unavailable, "provider-standby"),
    "broken": (500, '{"errors":["internal error"]}', Unknown, "provider-bad-answer"),
    "gateway": (502, "<html>", Unknown, "provider-bad-answer"),
}


@pytest.mark.parametrize("name", VAULT_ANSWERS)
async def test_what_a_vault_may_answer(name: str) -> None:
    """Each status and each odd body of Transit's sign is one of the three kinds."""
    status, body, kind, code = VAULT_ANSWERS[name]
    answers = iter([http(200, KEY), http(status, body, "retry-after: 4\r\n")])

    async def answer(stream: SocketStream) -> None:
        await stream.send(next(answers))
        await stream.receive()
        await stream.send(next(answers))

    async with server(answer) as url:
        signer = TransitSigner(url, "token", limits=LIMITS)
        request = SignRequest(key_ref="k:1", algorithm="ed25519", tbs=b"x", operation="o")
        with pytest.raises(OutlastError) as caught:
            await signer.sign(request)
        await signer.aclose()
    assert type(caught.value) is kind
    assert caught.value.code == code
    if kind is Unavailable:
        assert caught.value.retry_after_s == 4


@pytest.mark.parametrize(
    ("key_ref", "code"),
    [
        ("k", "key-ref-invalid"),
        ("k:0", "key-ref-invalid"),
        ("k:2", "key-unsupported"),
        ("k:3", "key-unsupported"),
        ("k:4", "key-not-found"),
    ],
)
async def test_versions_of_a_transit_key(key_ref: str, code: str) -> None:
    """A version is required; one without a usable public key, or that is not there, is Refused."""
    async with server(saying(http(200, KEY))) as url:
        signer = TransitSigner(url, "token", limits=LIMITS)
        with pytest.raises(Refused) as caught:
            await signer.describe(key_ref)
        await signer.aclose()
    assert caught.value.code == code


async def test_a_rotated_token_is_used() -> None:
    """The token is asked for before every call."""
    seen: list[bytes] = []
    tokens = iter(["first", "second"])

    async def handle(stream: SocketStream) -> None:
        async with stream:
            seen.append(await stream.receive())
            await stream.send(http(403, "{}", "connection: close\r\n"))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        port = listener.extra(SocketAttribute.local_port)
        signer = TransitSigner(f"http://127.0.0.1:{port}", lambda: next(tokens), limits=LIMITS)
        for _ in range(2):
            with pytest.raises(Refused, match="credentials-refused"):
                await signer.describe("k:1")
        await signer.aclose()
        group.cancel_scope.cancel()
    await listener.aclose()
    assert [b"X-Vault-Token: first" in seen[0], b"X-Vault-Token: second" in seen[1]] == [True, True]
