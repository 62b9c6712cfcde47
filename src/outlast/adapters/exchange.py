"""One HTTP request and its answer, bounded in time, size and connections, failing in our three kinds.

Every adapter that speaks HTTP does so through `Exchange`, so that "was it sent?" is answered in one place:

    Unavailable   provider-unreachable   no connection, or no TLS session with the server we expect
                  provider-busy          every connection of the pool is in use and stayed so
    Refused       credentials-refused    the server ended TLS because of our certificate
    Unknown       provider-answer-lost   sent, and the connection broke or nothing came in time
                  provider-bad-answer    sent, and what came is not HTTP or too large

A lost answer to a request without effect (``effect=False``) is Unavailable: there is nothing to be unsure of.
It reads no proxy settings or netrc of the environment, follows no redirect, and never retries: that is routing's.

It drives httpcore2, the engine of httpx2, directly: httpx2 has no way to pass in the network backend, and the
stock one leaves a socket open when its caller gives up during the TLS handshake, one for each attempt at a
provider that hangs (seen with httpcore2 2.16.2). `_ClosingBackend` closes it.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore2
import msgspec

from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown

MAX_RETRY_AFTER_S = 3600.0
"""A provider that asks for more patience is asked again after this."""


class ExchangeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one provider's connections. A caller's own timeout may be shorter and then wins."""

    connect_timeout_s: float = 1.0
    """TCP and TLS handshake."""
    answer_timeout_s: float = 10.0
    """From the request being sent to the answer being read whole."""
    pool_timeout_s: float = 2.0
    """Waiting for a free connection."""
    connections: int = 32
    keepalive_s: float = 30.0
    """An idle connection is closed by us after this; servers should keep theirs open for longer."""
    answer_bytes: int = 256 * 1024


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, read whole. ``retry_after_s`` is the Retry-After header, if any, in seconds from now;
    ``media_type`` the Content-Type in lower case without parameters, empty where there is none."""

    status: int
    content: bytes
    retry_after_s: float | None = None
    media_type: str = ""


_HTTP_ERRORS = (
    OSError,  # the total timeout; and TLS alerts, which httpcore2 passes on as they are
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked_base(url: str, scope: str, *, plain_on_loopback: bool) -> str:
    """A server's URL (scheme, host, port), if what goes there is protected by TLS, or by never leaving this machine.

    Raises Refused ``config-invalid``.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    is_plain = plain_on_loopback and parts.scheme == "http" and is_loopback(host)
    if not host or parts.username is not None or not (parts.scheme == "https" or is_plain):
        also = ", or http on this machine" if plain_on_loopback else ""
        raise Refused(
            "config-invalid",
            f"{scope!r}: its URL must be https with a host{also}, and without a user in it",
            hint="Without TLS, credentials can be read on the way, and answers forged.",
            scope=scope,
        )
    return url


class Exchange:
    """Requests to one server. ``base_url`` is scheme, host and port; ``scope`` names the provider in errors."""

    def __init__(
        self,
        base_url: str,
        *,
        scope: str,
        ssl_context: ssl.SSLContext | None = None,
        limits: ExchangeLimits | None = None,
    ) -> None:
        self._base = httpcore2.URL(base_url)
        self._scope = scope
        self._limits = limits or ExchangeLimits()
        self._closed = False
        self._timeouts = {
            "pool": self._limits.pool_timeout_s,
            "connect": self._limits.connect_timeout_s,
            "read": self._limits.answer_timeout_s,
            "write": self._limits.answer_timeout_s,
        }
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=self._limits.connections,
            max_keepalive_connections=self._limits.connections,
            keepalive_expiry=self._limits.keepalive_s,
            network_backend=_ClosingBackend(),
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        effect: bool,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send and read the answer, whatever its status. ``path`` begins with a slash and is escaped already.

        Raises as the module says, and Refused ``request-invalid`` for headers that HTTP cannot carry.
        """
        if self._closed:
            raise Unavailable("provider-closed", "this provider has been closed", scope=self._scope)
        limits = self._limits
        total_s = limits.pool_timeout_s + limits.connect_timeout_s + limits.answer_timeout_s
        try:
            # the pool's timeouts are between bytes: a server that drips would never meet them
            with anyio.fail_after(total_s):
                return await self._exchange(method, path, effect, body, headers or {})
        except _HTTP_ERRORS as error:
            raise self._translate(error, effect=effect) from error

    async def aclose(self) -> None:
        """Closes every connection; later calls are Unavailable ``provider-closed``."""
        self._closed = True
        await self._pool.aclose()

    async def _exchange(
        self, method: str, path: str, effect: bool, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        base = self._base
        url = httpcore2.URL(scheme=base.scheme, host=base.host, port=base.port, target=path)
        async with self._pool.stream(
            method,
            url,
            # a compressed answer could be small on the wire and huge in memory
            headers=[("Accept-Encoding", "identity"), *self._sendable(headers)],
            content=body,
            extensions={"timeout": self._timeouts},
        ) as response:
            content = await self._read(response, effect=effect)
        return Reply(
            status=response.status,
            content=content,
            retry_after_s=_retry_after_s(response.headers),
            media_type=_media_type(response.headers),
        )

    def _sendable(self, headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, value in headers.items():
            if not (value.isascii() and value.isprintable()):
                raise Refused(
                    "request-invalid", f"header {name} has a value that HTTP cannot carry"
                )
            yield name, value

    async def _read(self, response: httpcore2.Response, *, effect: bool) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_stream():
            content += chunk
            if len(content) > self._limits.answer_bytes:
                kind = Unknown if effect else Unavailable
                raise kind(
                    "provider-bad-answer",
                    f"the answer is longer than {self._limits.answer_bytes} bytes",
                    scope=self._scope,
                )
        return bytes(content)

    def _translate(self, error: Exception, *, effect: bool) -> OutlastError:
        if _client_certificate_refused(error):
            return Refused(
                "credentials-refused",
                "the provider does not take our client certificate",
                retry="reauth",
                scope=self._scope,
                hint="Check that it is in date and issued by a CA the provider trusts.",
            )
        if isinstance(error, httpcore2.PoolTimeout):
            return Unavailable(
                "provider-busy", "every connection to the provider is in use", scope=self._scope
            )
        if isinstance(error, httpcore2.ConnectError | httpcore2.ConnectTimeout):
            return self._unreachable(error)
        kind = type(error).__name__
        if not effect:
            return Unavailable(
                "provider-unreachable", f"no usable answer ({kind})", scope=self._scope
            )
        code = "provider-answer-lost"
        if isinstance(error, httpcore2.ProtocolError):
            code = "provider-bad-answer"
        return Unknown(code, f"sent, and no usable answer came ({kind})", scope=self._scope)

    def _unreachable(self, error: Exception) -> Unavailable:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Unavailable(
                    "provider-unreachable",
                    f"the server's certificate is not the one expected: {cause.verify_message}",
                    retry="elsewhere",
                    scope=self._scope,
                    hint="Check the server's certificate, its names and the configured CA.",
                )
        return Unavailable(
            "provider-unreachable", f"cannot connect ({type(error).__name__})", scope=self._scope
        )


def _client_certificate_refused(error: BaseException) -> bool:
    """Whether TLS ended with an alert about our certificate.

    In TLS 1.3 a client learns that only when it reads after its own handshake is over (RFC 8446 section 4.4.2.4), so it
    comes as a read error, not a connect error.
    """
    return any(
        isinstance(cause, ssl.SSLError) and (cause.reason or "") in _CERTIFICATE_ALERTS
        for cause in _causes(error)
    )


# OpenSSL's names for the alerts of RFC 8446 section 6.2 that concern the peer's, that is our, certificate
_CERTIFICATE_ALERTS = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    }
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _retry_after_s(headers: list[tuple[bytes, bytes]]) -> float | None:
    """RFC 9110 section 10.2.3; a date is compared with the server's own Date, so no clock of ours is involved."""
    found = {name.lower(): value.decode("latin-1") for name, value in headers}
    value = found.get(b"retry-after")
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(value)
        seconds = (until - parsedate_to_datetime(found.get(b"date", ""))).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _media_type(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name.lower() == b"content-type":
            return value.decode("latin-1").partition(";")[0].strip().lower()
    return ""


class _ClosingBackend(httpcore2.AsyncNetworkBackend):
    """The stock backend, whose connections are closed when anything at all ends their TLS handshake."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _ClosingStream(stream)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _ClosingStream(httpcore2.AsyncNetworkStream):
    """A stream not yet under TLS."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore2's interface
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore2's interface
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's interface
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:  # httpcore2's interface: whatever the socket says
        return self._inner.get_extra_info(info)
