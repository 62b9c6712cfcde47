"""A customer of the site, over HTTP and nothing else: uploads documents, asks for signatures, fetches what it got.

It behaves as a client should: each request has its Idempotency-Key; a connection that breaks, a timeout and a 5xx are
answered by asking again with the same key, a 429 or 503 after the time that the site names; anything else is a refusal.
What is acknowledged goes into its ledger at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx2
import msgspec

from outlast.core.clock import Clock
from outlast.core.errors import Refused, Unavailable
from outlast.gameday.ledger import Ledger, Promise, Refusal
from outlast.gameday.stage import Enrolment
from outlast.operations.views import Status

T = TypeVar("T")

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 15.0
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.5
GIVE_UP_S = 60.0
"""A request that is not acknowledged for so long is given up, and counts as not accepted."""
MAX_CONNECTIONS = 32

SCOPES = (
    "documents:read", "documents:write", "signatures:read", "signatures:write", "keys:read", "log:read", "operate",
)  # fmt: skip


class Upload(msgspec.Struct, frozen=True):
    """A document at the site: its id there, and its name here without the suffix."""

    id: str
    name: str


class _Receipt(msgspec.Struct):
    index: int


class _Accepted(msgspec.Struct):
    id: str
    receipt: _Receipt


class _Made(msgspec.Struct):
    token: str | None


class _Reply(msgspec.Struct, frozen=True):
    """An answer, and how often it was asked for."""

    response: httpx2.Response
    attempts: int

    def as_(self, type_: type[T]) -> T:
        return msgspec.json.decode(self.response.content, type=type_)


class _Problem(msgspec.Struct):
    code: str = "unreadable"
    detail: str = ""
    retry_after_s: float | None = None


class Client:
    """Calls one site, whichever of its lives it is in. Use as an async context manager."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._clock = clock
        self._http = httpx2.AsyncClient(
            base_url=url,
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_connections=MAX_CONNECTIONS),
            trust_env=False,
        )
        self.troubles: dict[int, str] = {}
        """Calls that are being made again, and why the last time failed."""
        self._calls = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    def use(self, token: str) -> None:
        """Show this API key from now on."""
        self._http.headers["authorization"] = f"Bearer {token}"

    # -- what an administrator does beforehand -------------------------------------------------------------------

    async def make_key(self) -> str:
        """An API key for the game day, by the key in use now."""
        body = {"scopes": list(SCOPES), "title": "the demo's client"}
        reply = await self._command("POST", "/v1/api-keys", "demo-api-key", body)
        made = reply.as_(_Made)
        if made.token is None:
            raise Refused("no-token", "the site answered without a token")
        return made.token

    async def enrol(self, key: str, enrolment: Enrolment) -> None:
        """Bind a provider's key and certificate to the signing key ``key``."""
        path = f"/v1/keys/{key}/bindings/{enrolment.provider}"
        body = {"key_ref": enrolment.key_ref, "chain_pem": enrolment.chain_pem}
        await self._command("PUT", path, "", body)

    # -- what a customer does ------------------------------------------------------------------------------------

    async def upload(self, name: str, content: bytes, key: str) -> Upload:
        """Hand in a PDF. Raises Refused with the site's reason."""
        headers = {"content-type": "application/pdf", "idempotency-key": key}
        reply = await self._retried(
            "POST", "/v1/documents", headers=headers, content=content, params={"title": name}
        )
        return Upload(reply.as_(_Accepted).id, name)

    async def ask(self, ledger: Ledger, key: str, document: Upload, *, again: bool = False) -> None:
        """Ask for a signature under an idempotency key, until it is acknowledged or refused; into the ledger."""
        body = {"document": document.id, "title": document.name, "reference": key}
        asked_ms = self._clock.now_ms()
        try:
            reply = await self._command("POST", "/v1/signature-requests", key, body)
        except (Refused, Unavailable) as error:
            ledger.refused(Refusal(key=key, code=error.code, detail=error.message))
            return
        accepted = reply.as_(_Accepted)
        ledger.acknowledged(
            Promise(
                key=key,
                request=accepted.id,
                document=document.name,
                index=accepted.receipt.index,
                asked_ms=asked_ms,
                acked_ms=self._clock.now_ms(),
                attempts=reply.attempts,
                again=again,
            )
        )

    async def file(self, request: str) -> bytes:
        """The signed file of a request."""
        return (
            await self._retried("GET", f"/v1/signature-requests/{request}/file")
        ).response.content

    async def evidence(self, request: str) -> bytes:
        """The evidence bundle of a request."""
        return (
            await self._retried("GET", f"/v1/signature-requests/{request}/evidence")
        ).response.content

    # -- what an operator looks at -------------------------------------------------------------------------------

    async def status(self) -> Status | None:
        """The site's status page; None where it does not answer."""
        try:
            response = await self._http.get("/v1/status", timeout=CONNECT_TIMEOUT_S)
        except httpx2.TransportError:
            return None
        return _Reply(response, 1).as_(Status) if response.status_code == 200 else None

    async def ready(self) -> bool:
        """Whether the site takes work."""
        try:
            response = await self._http.get("/readyz", timeout=CONNECT_TIMEOUT_S)
        except httpx2.TransportError:
            return False
        return response.status_code == 200

    # -- how it insists ------------------------------------------------------------------------------------------

    async def _command(self, method: str, path: str, key: str, body: object) -> _Reply:
        headers = {"content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        content = msgspec.json.encode(body)
        return await self._retried(method, path, headers=headers, content=content)

    async def _retried(self, method: str, path: str, **given: Any) -> _Reply:
        self._calls += 1
        number = self._calls
        try:
            return await self._insist(number, method, path, given)
        finally:
            self.troubles.pop(number, None)

    async def _insist(self, number: int, method: str, path: str, given: dict[str, Any]) -> _Reply:
        attempts, pause_s, until_s = 0, RETRY_FIRST_S, self._clock.monotonic_s() + GIVE_UP_S
        while True:
            attempts += 1
            wait_s: float | None = None
            try:
                response = await self._http.request(method, path, **given)
            except httpx2.TransportError as error:
                why = type(error).__name__
            else:
                if response.is_success:
                    return _Reply(response, attempts)
                problem = _problem(response)
                why, wait_s = problem.code, problem.retry_after_s
                if response.status_code < 500 and response.status_code not in (409, 429):
                    raise Refused(problem.code, problem.detail)
            if self._clock.monotonic_s() > until_s:
                why = f"{method} {path}: no answer in {GIVE_UP_S:g} s ({why})"
                raise Unavailable("gave-up", why)
            self.troubles[number] = why
            await asyncio.sleep(pause_s if wait_s is None else min(wait_s, RETRY_MOST_S))
            pause_s = min(2 * pause_s, RETRY_MOST_S)


async def ask_steadily(
    client: Client, ledger: Ledger, keys: Sequence[tuple[str, Upload]], per_s: float, clock: Clock
) -> None:
    """Send one request after the other at a steady pace, whether or not those before have been answered."""
    start_s = clock.monotonic_s()
    async with asyncio.TaskGroup() as group:
        for i, (key, document) in enumerate(keys):
            await asyncio.sleep(max(0.0, start_s + i / per_s - clock.monotonic_s()))
            group.create_task(client.ask(ledger, key, document), name=f"ask {key}")


async def ask_again(
    client: Client, ledger: Ledger, keys: Sequence[tuple[str, Upload]], at_once: int = 16
) -> None:
    """Send every request once more, with the same keys: each must be answered with what it was promised."""
    turns = asyncio.Semaphore(at_once)

    async def one(key: str, document: Upload) -> None:
        async with turns:
            await client.ask(ledger, key, document, again=True)

    async with asyncio.TaskGroup() as group:
        for key, document in keys:
            group.create_task(one(key, document))


def _problem(response: httpx2.Response) -> _Problem:
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except msgspec.MsgspecError:
        return _Problem(detail=f"HTTP {response.status_code}")
