"""The API as one ASGI application.

Every request passes the same way: its operation is found, its caller authenticated and asked for the scope, the
handler called; every answer carries the mode, the request id and the security headers; every failure becomes
problem details. Nothing an operation did not declare is reachable.
"""

from __future__ import annotations

import logging
from functools import cache

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from outlast.core.access import Principal, spend
from outlast.core.errors import OutlastError, Refused
from outlast.core.telemetry import HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS, Span
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.body import Body, CallerGone
from outlast.surfaces.http.call import Call, encode
from outlast.surfaces.http.context import Context, HttpOptions, build_context
from outlast.surfaces.http.headers import RawHeaders
from outlast.surfaces.http.problems import Problem, headers_of, problem_of, unexpected
from outlast.surfaces.http.protocol import EXTENSION, TakeWhole, WriteWhole
from outlast.surfaces.http.route import Match, Route, Table
from outlast.surfaces.http.table import ROUTES
from outlast.wiring.site import Site

log = logging.getLogger("outlast.http")

_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_BODILESS = (204, 304)
RawHeader = tuple[bytes, bytes]
_NO_STORE = (b"cache-control", b"no-store")
_NO_STORE_LINE = b"cache-control: no-store\r\n"


@cache
def _common_lines(mode: str) -> bytes:
    """What every answer carries, as lines."""
    return b"".join(
        [b"%b: %b\r\n" % pair for pair in ((b"outlast-mode", mode.encode()), *_SECURITY)]
    )


_PATHS = {route.id: route.path for route in ROUTES}


class HttpApi:
    """The application over one site."""

    def __init__(self, site: Site, options: HttpOptions | None = None, version: str = "") -> None:
        self.context = build_context(site, options or HttpOptions(), version)
        self._table = Table(ROUTES)
        self._hosts = frozenset(h.lower().encode() for h in self.context.options.hosts)

    def close(self) -> None:
        """Let go of streams and long polls: the server is about to end."""
        self.context.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await _Exchange(self.context, scope, receive, send).run(self._table, self._hosts)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_body",
        "_ctx",
        "_headers",
        "_request_id",
        "_route",
        "_scope",
        "_send",
        "_span",
        "_status",
        "_write",
    )

    def __init__(self, ctx: Context, scope: Scope, receive: Receive, send: Send) -> None:
        self._ctx = ctx
        self._scope = scope
        self._send = send
        self._headers: RawHeaders = dict(scope["headers"])
        extensions = scope.get("extensions")
        whole: tuple[WriteWhole | None, TakeWhole | None]
        whole = (extensions and extensions.get(EXTENSION)) or (None, None)
        self._write: WriteWhole | None = whole[0]
        self._body = Body(receive, self._headers, whole[1])
        self._request_id = header.request_id(self._headers)
        self._span: Span | None = None
        self._route = "none"
        self._status = 0

    async def run(self, table: Table, hosts: frozenset[bytes]) -> None:
        """Answer, whatever happens."""
        clock = self._ctx.site.clock
        began_s = clock.monotonic_s()
        tracer = self._ctx.site.tracer
        if tracer is not None:
            self._span = tracer.server(self._headers.get(b"traceparent"))
        token = None if self._span is None else self._span.enter()
        try:
            await self._handle(table, hosts)
        except CallerGone:
            return
        except OutlastError as error:
            if self._status:
                raise  # the connection is cut: half an answer must not look whole
            await self._refuse(problem_of(error, self._id()), error)
        except Exception as error:
            log.error("%s: request %s", self._route, self._id(), exc_info=error)
            if self._status:
                raise
            await self._refuse(unexpected(self._id()), error)
        finally:
            took_s, waited = clock.monotonic_s() - began_s, b"prefer" in self._headers
            self._ctx.metrics.answered(self._route, self._status, took_s, waited, self._span)
            if self._span is not None and token is not None:
                self._describe(self._span)
                self._span.leave(token)

    async def _handle(self, table: Table, hosts: frozenset[bytes]) -> None:
        scope = self._scope
        if hosts and self._headers.get(b"host", b"").lower() not in hosts:
            raise Refused("host-not-allowed", "this site does not answer to that Host")
        match = table.find(scope["path"])
        if match is None:
            raise Refused(
                "not-found",
                "there is nothing at this path",
                hint="/openapi.json lists all there is.",
            )
        route = match.methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if route is None:
            raise _NotAllowed(scope["method"], match)
        self._route = route.id
        principal = await self._authenticate(route)
        call = Call(
            self._ctx,
            scope,
            self._headers,
            self._body,
            self._answer,
            self._whole,
            self._id,
            match.params,
            principal,
        )
        response = await route.handler(call)
        if type(response) is Response and response.status_code not in _BODILESS:
            headers = [h for h in response.raw_headers if h[0] != b"content-length"]
            await self._whole(response.status_code, headers, bytes(response.body))
        elif response is not None:
            await response(scope, self._nothing_more, self._answer)

    def _describe(self, span: Span) -> None:
        """What the semantic conventions say of a server's span; no path, for there are names in it."""
        path = _PATHS.get(self._route)
        if path is not None:
            span.name = f"{self._scope['method']} {path}"
            span.set(HTTP_METHOD, self._scope["method"])
            span.set(HTTP_ROUTE, path)
        span.set(HTTP_STATUS, self._status)
        if self._status >= 500 and not span.error:
            span.failed(str(self._status))

    def _traceparent(self) -> bytes | None:
        """Of our span where there is one, else the caller's own back."""
        if self._span is not None:
            return self._span.traceparent.encode()
        return header.traceparent(self._headers)

    async def _authenticate(self, route: Route) -> Principal | None:
        ctx = self._ctx
        if route.scope is None or (route.tag == "log" and ctx.options.public_log):
            return None
        token = header.bearer_token(self._headers)
        principal = await ctx.site.authenticator.authenticate(token)
        if route.scope:
            principal.require(route.scope)
        if ctx.gate is not None:
            spend(ctx.gate, principal.actor)
        return principal

    def _id(self) -> str:
        """The caller's request id, or one that is made when it is first needed."""
        if self._request_id is None:
            self._request_id = self._ctx.site.ids.new().encode()
        return self._request_id.decode()

    async def _nothing_more(self) -> Message:
        """What a response sees when it looks for a disconnect."""
        await self._body.gone()
        return {"type": "http.disconnect"}

    async def _answer(self, message: Message) -> None:
        """A response's own messages, dressed on the way out."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = self._dressed(list(message["headers"]))
        await self._send(message)

    async def _whole(self, status: int, headers: list[RawHeader], body: bytes) -> None:
        """A whole answer at once: in one write where the server can, else as messages."""
        self._status = status
        possible = self._body.finished and self._scope["method"] != "HEAD"
        if possible and self._write is not None and self._write(status, self._lines(headers), body):
            return
        headers = self._dressed(headers)
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _lines(self, headers: list[RawHeader]) -> bytes:
        """Headers, dressed, as they go over the wire."""
        given = [b"%b: %b\r\n" % pair for pair in headers]
        for name, _ in headers:
            if name == b"cache-control":
                break
        else:
            given.append(_NO_STORE_LINE)
        given.append(_common_lines(self._ctx.site.watch.mode.label))
        given += [b"%b: %b\r\n" % pair for pair in self._own()]
        return b"".join(given)

    def _own(self) -> list[RawHeader]:
        """What the caller is given back of its own."""
        own: list[RawHeader] = []
        if self._request_id is not None:
            own.append((b"x-request-id", self._request_id))
        trace = self._traceparent()
        if trace is not None:
            own.append((b"traceparent", trace))
        return own

    def _dressed(self, headers: list[RawHeader]) -> list[RawHeader]:
        for name, _ in headers:
            if name == b"cache-control":
                break
        else:
            headers.append(_NO_STORE)
        headers.append((b"outlast-mode", self._ctx.site.watch.mode.label.encode()))
        return headers + _SECURITY + self._own()

    async def _refuse(self, problem: Problem, error: Exception) -> None:
        if self._span is not None:
            problem = msgspec.structs.replace(problem, trace_id=self._span.context.trace_id)
            if problem.status >= 500:
                self._span.failed(problem.code)
        headers = headers_of(problem)
        if isinstance(error, _NotAllowed):
            headers.append((b"allow", error.allow.encode()))
        body = encode(problem)
        if self._body.finished:
            await self._whole(problem.status, headers, body)
            return
        headers += ((b"content-length", b"%d" % len(body)), (b"connection", b"close"))
        await self._answer(
            {"type": "http.response.start", "status": problem.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self._body.linger()
        await self._send({"type": "http.response.body", "body": b""})


class _NotAllowed(Refused):
    """A path that has no such method."""

    def __init__(self, method: str, match: Match) -> None:
        self.allow = ", ".join(
            sorted({*match.methods, *(["HEAD"] if "GET" in match.methods else [])})
        )
        super().__init__(
            "method-not-allowed", f"{method[:20]} is not possible here", hint=f"Use {self.allow}."
        )


async def _lifespan(receive: Receive, send: Send) -> None:
    """The site is opened and closed around the server, not by it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
