"""All that signing's job handlers may touch: the door to the disk, blobs, providers, time.

Handlers await nothing else. A site builds the world from real parts; the simulator from scripted ones, and drives
the very same handlers without an event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.clock import Clock
from outlast.core.commit import Receipt, Submission
from outlast.core.decider import Deciders
from outlast.core.envelope import Envelope, context, open_field
from outlast.core.errors import Refused
from outlast.core.routing.router import Router
from outlast.core.store.port import StreamKey, StreamRow
from outlast.core.telemetry import Histogram, Tracer
from outlast.ports.keys import Signer
from outlast.ports.timestamp import TimestampAuthority
from outlast.signing.classes import DocumentClass
from outlast.signing.model import document, key, request
from outlast.signing.pdf.facts import PrepareOptions
from outlast.signing.pdf.revision import Prepared

T = TypeVar("T")

SIGNING_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Bounds of the distribution of requests by the time they took."""


class Door(Protocol):
    """`outlast.core.commit.Committer`, as far as handlers need it."""

    async def submit(self, work: Submission) -> Receipt:
        """Decide, write durably, answer."""
        ...


class Streams(Protocol):
    """`outlast.core.store.port.Store`, as far as handlers need it."""

    async def stream(self, key: StreamKey) -> StreamRow | None:
        """The newest state of a stream."""
        ...

    async def subject_key(self, subject: str) -> bytes | None:
        """The wrapped key of a subject."""
        ...


class Bodies(Protocol):
    """`outlast.core.blobs.Blobs`, as far as handlers need it."""

    def stream(self, tenant: str, ref: BlobRef) -> AsyncIterator[bytes]:
        """A body in pieces, checked at its end."""
        ...

    async def read(self, tenant: str, ref: BlobRef) -> bytes:
        """A whole body, checked."""
        ...

    async def put(self, tenant: str, chunks: AsyncIterator[bytes]) -> BlobRef:
        """Store a body durably."""
        ...

    async def put_bytes(self, tenant: str, body: bytes) -> BlobRef:
        """Store a body that is in memory."""
        ...


class Within(Protocol):
    """Bounds an awaitable in time."""

    async def __call__(self, timeout_ms: int, work: Awaitable[T]) -> T:
        """The result, or TimeoutError; the work is then cancelled."""
        ...


Prepare = Callable[[bytes, PrepareOptions], Awaitable[Prepared]]
"""Prepare a revision of a PDF that intake has accepted, in a sandbox."""

Denied = Callable[[str, str, str], str]
"""``(tenant, class, provider)`` -> why policy forbids it, or an empty string."""

Degrade = Callable[[str, str], str]
"""``(class, degradation)`` -> why policy forbids to deliver less than the class's best, or an empty string."""


def _permitted(_class_name: str, _degradation: str) -> str:
    return ""


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Personal fields of a request or document: sealed before they reach the log."""

    name: str = ""
    reason: str = ""
    location: str = ""
    contact: str = ""
    title: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class World:
    """See the module. ``regions`` tells where a provider is; ``actor`` signs what handlers do; ``large()`` is held
    around a document above `source.IN_MEMORY_BYTES` that must be in memory whole, and bounds how many are."""

    clock: Clock
    door: Door
    streams: Streams
    deciders: Deciders
    bodies: Bodies
    envelope: Envelope
    subjects: Subjects
    within: Within
    prepare: Prepare
    denied: Denied
    classes: Mapping[str, DocumentClass]
    signers: Mapping[str, Signer]
    authorities: Mapping[str, TimestampAuthority]
    regions: Mapping[str, str]
    signer_router: Router
    authority_router: Router
    degraded: Degrade = _permitted
    decoded: dict[int, tuple[StreamRow, Any]] = field(default_factory=dict)
    actor: str = "worker"
    large: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    tracer: Tracer | None = None
    signed: Histogram = field(default_factory=lambda: Histogram(SIGNING_S))
    """Seconds from a request's acceptance to its signed file, where no person's approval was waited for."""

    async def request(self, tenant: str, request_id: str) -> request.Request:
        """A signature request; raises Refused ``request-not-found``."""
        row = await self.streams.stream(StreamKey(tenant, request.KIND, request_id))
        if row is None:
            raise Refused("request-not-found", "no such signature request")
        state: request.Request = self._decoded(request.KIND, row)
        return state

    async def document(self, tenant: str, document_id: str) -> document.Document:
        """A document; raises Refused ``document-not-found``."""
        row = await self.streams.stream(StreamKey(tenant, document.KIND, document_id))
        if row is None:
            raise Refused("document-not-found", "no such document")
        state: document.Document = self._decoded(document.KIND, row)
        return state

    async def key(self, tenant: str, name: str) -> key.SigningKey:
        """A signing key; raises Refused ``key-not-found``."""
        row = await self.streams.stream(StreamKey(tenant, key.KIND, name))
        if row is None:
            raise Refused(
                "key-not-found",
                f"no signing key is called {name!r}",
                hint="See `outlast keys list`.",
            )
        state: key.SigningKey = self._decoded(key.KIND, row)
        return state

    def _decoded(self, kind: str, row: StreamRow) -> Any:
        """A row's state; the same row, which a store may keep, is decoded once."""
        known = self.decoded.get(id(row))
        if known is not None and known[0] is row:
            return known[1]
        state = self.deciders.decode_state(kind, row.state)
        if len(self.decoded) >= MAX_DECODED:
            self.decoded.clear()
        self.decoded[id(row)] = (row, state)
        return state

    def class_of(self, name: str) -> DocumentClass:
        """A configured class; raises Refused ``unknown-class``."""
        try:
            return self.classes[name]
        except KeyError:
            raise Refused(
                "unknown-class",
                f"no document class is called {name!r}",
                hint=f"Configured are: {', '.join(sorted(self.classes)) or 'none'}.",
            ) from None

    async def details(self, tenant: str, document_id: str, stream: str, sealed: str) -> Details:
        """A stream's personal fields, opened; raises Refused ``personal-fields-erased`` when the document's key
        is gone."""
        if not sealed:
            return Details()
        key = await self.subjects.key(tenant, document_id)
        return _decode_details(open_field(key, context(tenant, document_id, stream), sealed))

    async def seal(self, tenant: str, document_id: str, stream: str, details: Details) -> str:
        """Personal fields as they go into the log; empty for none. Raises as `details` does."""
        if details == _NOTHING:
            return ""
        key = await self.subjects.key(tenant, document_id)
        binding = context(tenant, document_id, stream)
        return self.envelope.seal_field(key, binding, _encode_details(details))


class Subjects:
    """The keys that personal fields are sealed under: one a document, made at intake, kept wrapped beside the log.

    Whoever is named in a document or in the requests on it is erased with it: without the key, those fields are
    unreadable in every copy of the log. Keys in use are kept in memory, MAX_OPEN_KEYS at most.
    """

    def __init__(self, streams: Streams, envelope: Envelope) -> None:
        self._streams = streams
        self._envelope = envelope
        self._open: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def new(self, tenant: str, document_id: str) -> tuple[bytes, bytes]:
        """A fresh key for a document that is being added, and its wrapped form to be stored with it."""
        made = self._envelope.new_subject_key(context(tenant, document_id))
        return made.key, made.wrapped

    async def key(self, tenant: str, document_id: str) -> bytes:
        """A document's key; raises Refused ``personal-fields-erased``."""
        known = self._open.get((tenant, document_id))
        if known is not None:
            return known
        wrapped = await self._streams.subject_key(document_id)
        if wrapped is None:
            raise Refused("personal-fields-erased", "the document's personal fields were erased")
        key = self._envelope.open_subject_key(wrapped, context(tenant, document_id))
        self._open[(tenant, document_id)] = key
        if len(self._open) > MAX_OPEN_KEYS:
            self._open.popitem(last=False)
        return key

    def forget(self, tenant: str, document_id: str) -> None:
        """Drop a key that was erased."""
        self._open.pop((tenant, document_id), None)


MAX_DECODED = 1_024
"""Decoded states kept in memory, a few KiB each."""
MAX_OPEN_KEYS = 4_096
"""Subject keys kept unwrapped in memory."""

_decode_details = msgspec.json.Decoder(Details).decode
_encode_details = msgspec.json.Encoder().encode
_NOTHING = Details()
