"""The API from a client's side: one code path for a running site, one elsewhere, and one inside this process.

Guarantees: an answer is the struct asked for or an OutlastError with the server's own code, message and hint; a
request is repeated, within bounds, only when that cannot do its work twice (reading, or with an Idempotency-Key).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2
import msgspec

from outlast.core.clock import SystemClock
from outlast.core.errors import (
    Conflict,
    Corrupt,
    OutlastError,
    Refused,
    Retry,
    Unavailable,
    Unknown,
)

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 75.0
"""Longer than any `Prefer: wait` a site grants."""
TRIES = 5
"""Of one request, all told."""
PAUSE_S = 0.25
"""Before the second try where the site names no time; doubled each time."""
MAX_PAUSE_S = 2.0
"""Where the site asks for a longer one, the caller is told instead."""
STALE_TOKEN = frozenset({"token-invalid", "token-revoked"})
"""What a site that was started again says to the token of the process before it."""
GONE = frozenset({"site-unreachable", "answer-lost"})
"""How a site looks that was killed, until it is there again."""
CHUNK_BYTES = 256 * 1024


_ASKED_ELSEWHERE = (
    "A site elsewhere (--url) is asked with the token in the environment variable OUTLAST_TOKEN;"
    " `outlast api-keys create` on the site's own machine makes one."
)
_HINTS = {
    "token-missing": _ASKED_ELSEWHERE,
    "token-invalid": _ASKED_ELSEWHERE,
    "token-revoked": _ASKED_ELSEWHERE,
    "token-expired": _ASKED_ELSEWHERE,
    "not-a-pdf": "Give the PDF itself; --cms makes a detached signature of any file.",
}
"""Where the site's own hint says what to send over HTTP: what to do here."""


class _Problem(msgspec.Struct):
    """The members of RFC 9457 problem details that matter here."""

    code: str
    status: int
    detail: str = ""
    hint: str = ""
    retry: Retry = "never"
    retry_after_s: float | None = None
    scope: str = ""


class Api:
    """Calls one site. ``where`` names it in messages. ``renew`` brings address and token up to date after the
    site was started again; without it, a refused token is final. ``notice`` is told what is waited for."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        where: str,
        *,
        renew: Callable[[httpx2.AsyncClient], None] | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._http = http
        self.where = where
        self.patience_s = 0.0
        """How long to wait for a site to come back that has answered before."""
        self._renew = renew
        self._notice = notice
        self._clock = SystemClock()
        self._has_answered = False

    async def get(
        self,
        path: str,
        answer: type[T],
        *,
        query: Mapping[str, str] | None = None,
        wait_s: float = 0,
    ) -> T:
        """Read; ``wait_s`` is how long the site may hold its answer back (RFC 7240 wait)."""
        headers = {"prefer": f"wait={wait_s:.3f}"} if wait_s else {}
        given = {name: value for name, value in (query or {}).items() if value}
        return _decode(await self._send("GET", path, headers=headers, params=given), answer)

    async def send(
        self, method: str, path: str, body: object, answer: type[T], *, key: str = ""
    ) -> T:
        """A command with a JSON body. With an idempotency ``key`` it may be repeated."""
        headers = {"content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        content = msgspec.json.encode(body)
        repeats = bool(key) or method in ("PUT", "DELETE")
        response = await self._send(
            method, path, headers=headers, content=content, may_repeat=repeats
        )
        return _decode(response, answer)

    async def upload(
        self,
        path: str,
        file: Path,
        media_type: str,
        answer: type[T],
        *,
        key: str,
        query: dict[str, str],
    ) -> T:
        """Send a file as the body, streamed; read anew for each try."""
        headers = {"content-type": media_type, "idempotency-key": key}
        response = await self._send("POST", path, headers=headers, params=query, file=file)
        return _decode(response, answer)

    async def lines(
        self,
        path: str,
        body: bytes,
        media_type: str,
        answer: type[T],
        *,
        key: str,
        query: Mapping[str, str],
    ) -> tuple[T, bool]:
        """Send bytes as they are; the answer, and whether it was given earlier to the same ``key``."""
        headers = {"content-type": media_type, "idempotency-key": key}
        response = await self._send("POST", path, headers=headers, params=query, content=body)
        return _decode(response, answer), response.headers.get("idempotent-replayed") == "true"

    async def content(self, path: str) -> bytes:
        """A file from the site, whole."""
        return (await self._send("GET", path)).content

    async def events(self, path: str, query: Mapping[str, str]) -> AsyncIterator[tuple[str, bytes]]:
        """Server-sent events as (id, data), as they come."""
        timeout = httpx2.Timeout(CONNECT_TIMEOUT_S, read=None)
        async with self._http.stream("GET", path, params=dict(query), timeout=timeout) as response:
            if response.status_code != 200:
                await response.aread()
                raise _error(response)
            event_id, data = "", b""
            async for line in response.aiter_lines():
                field, _, value = line.partition(": ")
                if field == "id":
                    event_id = value
                elif field == "data":
                    data += value.encode()
                elif not line and data:
                    yield event_id, data
                    data = b""

    async def _send(
        self,
        method: str,
        path: str,
        *,
        file: Path | None = None,
        may_repeat: bool = True,
        **given: Any,
    ) -> httpx2.Response:
        end_s = self._clock.monotonic_s() + self.patience_s
        failures: Counter[str] = Counter()
        while True:
            try:
                response = await self._once(method, path, file, given)
            except (Unavailable, Unknown, Refused) as error:
                # by code: a site that comes back after many tries may refuse the old token only then
                failures[error.code] += 1
                tries = failures[error.code]
                pause_s = error.retry_after_s or min(PAUSE_S * 2 ** min(tries - 1, 8), MAX_PAUSE_S)
                is_left = tries < TRIES or (
                    error.code in GONE
                    and self._has_answered
                    and self._clock.monotonic_s() + pause_s < end_s
                )
                if not may_repeat or not is_left or not self._may_pass(error, pause_s):
                    raise
                if tries == TRIES:
                    self._say(f"{self.where} does not answer: waiting for it to come back.")
                await asyncio.sleep(pause_s)
                if self._renew is not None:
                    self._renew(self._http)
            else:
                self._has_answered = True
                return response

    def _may_pass(self, error: OutlastError, pause_s: float) -> bool:
        if isinstance(error, Refused):
            return error.code in STALE_TOKEN and self._renew is not None
        return error.retry in ("same", "later") and pause_s <= MAX_PAUSE_S

    def _say(self, what: str) -> None:
        notice, self._notice = self._notice, None  # once, however many files are on their way
        if notice is not None:
            notice(what)

    async def _once(
        self, method: str, path: str, file: Path | None, given: dict[str, Any]
    ) -> httpx2.Response:
        try:
            if file is None:
                response = await self._http.request(method, path, **given)
            else:
                with file.open("rb") as opened:
                    response = await self._http.request(
                        method, path, content=_pieces(opened), **given
                    )
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if "SSL" in str(error):
                raise Unavailable(
                    "site-unreachable",
                    f"no TLS connection with {self.where}: {error}",
                    hint="Does it speak http:// only, or is its certificate from an authority unknown here?",
                ) from error
            raise Unavailable(
                "site-unreachable",
                f"{self.where} does not answer",
                hint="Is it running? `outlast serve` starts one here; --url names one elsewhere.",
            ) from error
        except httpx2.HTTPError as error:
            raise Unknown(
                "answer-lost",
                f"{self.where} did not answer in full ({type(error).__name__})",
                hint="It may have been done; look before repeating it.",
            ) from error
        if response.is_success:
            return response
        raise _error(response)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield piece


def _decode(response: httpx2.Response, answer: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=answer)
    except msgspec.MsgspecError as error:
        raise Refused(
            "answer-malformed",
            f"the answer is not what this program understands: {error}",
            hint="Are site and command of the same version? Is it an Outlast site at all?",
        ) from error


def _error(response: httpx2.Response) -> OutlastError:
    """What went wrong, as the site says it."""
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        problem = _Problem(
            code="not-an-outlast-site",
            status=response.status_code,
            detail=f"status {response.status_code} without an explanation",
            hint="Check the address.",
        )
    kind = _KINDS.get(problem.status)
    if kind is None:
        kind = Unavailable if problem.retry in ("later", "same") else Refused
    return kind(
        problem.code,
        problem.detail,
        hint=_HINTS.get(problem.code, problem.hint),
        retry=problem.retry,
        retry_after_s=problem.retry_after_s,
        scope=problem.scope,
    )


_KINDS: dict[int, type[OutlastError]] = {
    409: Conflict,
    412: Conflict,
    429: Unavailable,
    500: Corrupt,
    502: Unknown,
    503: Unavailable,
}
