"""One request on its way through: what a handler gets, and how it answers.

A handler is ``async def handler(call: Call) -> Response | None``; None says that it has answered through
``call.send`` itself, which the two accept routes do because they are most of the traffic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Scope, Send

from outlast.core.access import Principal
from outlast.core.commit import Idempotency
from outlast.core.errors import Refused
from outlast.core.telemetry import current_span
from outlast.signing.api import Caller
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.body import Body
from outlast.surfaces.http.context import Context
from outlast.surfaces.http.headers import RawHeaders
from outlast.surfaces.http.problems import malformed

T = TypeVar("T")

MAX_JSON_BYTES = 1024 * 1024
"""Longest JSON body, in bytes."""

encode = msgspec.json.Encoder().encode
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


AnswerWhole = Callable[[int, list[tuple[bytes, bytes]], bytes], Awaitable[None]]
"""``(status, headers, body)``: the whole answer at once; headers without Content-Length."""


class Call:
    """One authenticated request. ``principal`` is None on public routes only."""

    __slots__ = (
        "_principal",
        "_query",
        "answer",
        "body",
        "ctx",
        "headers",
        "params",
        "request_id",
        "scope",
        "send",
    )

    def __init__(
        self,
        ctx: Context,
        scope: Scope,
        headers: RawHeaders,
        body: Body,
        send: Send,
        answer: AnswerWhole,
        request_id: Callable[[], str],
        params: Mapping[str, str],
        principal: Principal | None,
    ) -> None:
        self.ctx = ctx
        self.scope = scope
        self.headers = headers
        self.body = body
        self.send = send
        self.answer = answer
        self.request_id = request_id
        self.params = params
        self._principal = principal
        self._query: QueryParams | None = None

    @property
    def principal(self) -> Principal:
        """Whose request it is."""
        assert self._principal is not None, "a public route has no principal"
        return self._principal

    @property
    def caller(self) -> Caller:
        """The principal as signing knows it."""
        principal = self.principal
        if self.ctx.site.tracer is None or (span := current_span()) is None:
            return Caller(principal.tenant, principal.actor)
        return Caller(principal.tenant, principal.actor, trace=span.traceparent)

    @property
    def query(self) -> QueryParams:
        """The query's parameters."""
        if self._query is None:
            self._query = QueryParams(self.scope["query_string"])
        return self._query

    def number(self, name: str, default: int, most: int) -> int:
        """A query parameter between 1 and ``most``; raises Refused ``request-malformed``."""
        text = self.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and 0 < int(text) <= most):
            raise malformed(f"{name} must be a number from 1 to {most}")
        return int(text)

    def integer(self, name: str, what: str) -> int:
        """A path parameter that is a number; raises Refused ``<what>-not-found``."""
        text = self.params[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise Refused(f"{what}-not-found", f"there is no {what} {text[:40]!r}")
        return int(text)

    async def read(self, type_: type[T]) -> tuple[T, bytes]:
        """The JSON body as a struct, and as it came. Raises Refused ``request-malformed``, ``content-type``,
        ``body-too-large``."""
        raw = await self.body.whole(MAX_JSON_BYTES)
        require_json(self.headers)
        if not raw:
            raw = b"{}"  # where every member has a default, no body is as good as an empty one
        return decode(type_, raw), raw

    def idempotency(self, raw: bytes = b"") -> Idempotency | None:
        """The caller's key, bound to method, target and body."""
        key = header.idempotency_key(self.headers)
        if not key:
            return None
        target = f"{self.scope['method']} {self.scope['path']}?".encode()
        return Idempotency(key, target + self.scope["query_string"] + b"\n" + raw)


def require_json(headers: RawHeaders) -> None:
    """Raises Refused ``content-type`` where something else than JSON is declared."""
    given = headers.get(b"content-type")
    if given is not None and not given.startswith(b"application/json"):
        raise Refused(
            "content-type",
            "this takes JSON",
            hint="Send Content-Type: application/json.",
        )


def decode(type_: type[T], raw: bytes) -> T:
    """JSON as a struct; raises Refused ``request-malformed`` with the place that is wrong."""
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(type_)
    if decoder is None:
        decoder = _decoders[type_] = msgspec.json.Decoder(type_)
    return decode_with(decoder, raw)


def decode_with(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """The same with a decoder at hand."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise malformed(str(error), "See this operation's request body in /openapi.json.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"the body is not JSON: {error}") from None


def json_answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A struct as a JSON answer."""
    return Response(encode(body), status, headers, "application/json")


async def send_json(
    call: Call, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """The same without the detour over a response object; ``headers`` is taken over."""
    headers.append((b"content-type", b"application/json"))
    await call.answer(status, headers, body)


Handler = Callable[[Call], Awaitable[Response | None]]
