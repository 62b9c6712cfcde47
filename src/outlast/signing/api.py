"""All that surfaces and flows may call of signing.

Commands return a `Receipt` as soon as they are durable; questions return views. Every call names its tenant and
sees nothing of others. Errors are Refused (the request is wrong), Unavailable (overloaded, read-only, disk full:
nothing happened) or Unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.commit import Idempotency, Receipt, Submission, recall
from outlast.core.decider import Command
from outlast.core.envelope import context
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.ids import Ids
from outlast.core.store.port import JobRow, Store, StreamItem, StreamKey
from outlast.signing.classes import DocumentClass, Format
from outlast.signing.cms import check_certificate
from outlast.signing.intake import PDF, Intake, TakenIn
from outlast.signing.model import document as documents
from outlast.signing.model import key as keys
from outlast.signing.model import request as requests
from outlast.signing.model.key import Binding
from outlast.signing.model.request import Place
from outlast.signing.pdf.refusals import too_many_pages
from outlast.signing.pdf.slots import SignatureFields, check_fields
from outlast.signing.views import (
    DocumentView,
    KeyView,
    RequestView,
    document_view,
    key_view,
    request_view,
)
from outlast.signing.world import Details, World

MAX_BULK = 1_000
"""Requests in one bulk call."""
MAX_TEXT_CHARS = 500
"""Of each personal field."""
MAX_PAGE = 200
"""Items in one page of a listing."""


class PlaceAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signature asked for. ``key`` defaults to the class's; ``field`` is an empty signature field's name."""

    key: str = ""
    field: str = ""


class SignatureAsk(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"class_name": "class"},
):
    """A request for one or more signatures, in order, on a document.

    ``format`` defaults to ``pades`` for PDFs and ``cms`` for other files. ``name``, ``reason``, ``location`` and
    ``contact`` stand in the signature; ``title`` and ``reference`` are the caller's own words. All of them are
    encrypted before they are logged.
    """

    document: str
    class_name: str = "default"
    format: Format | None = None
    signatures: tuple[PlaceAsk, ...] = (PlaceAsk(),)
    name: str = ""
    reason: str = ""
    location: str = ""
    contact: str = ""
    title: str = ""
    reference: str = ""


class Caller(msgspec.Struct, frozen=True):
    """Who asks: the tenant, the actor as it goes on record, and flags such as ``degraded_auth``. ``trace`` is the
    ``traceparent`` that the jobs to come are linked with, empty where nothing is recorded."""

    tenant: str
    actor: str
    flags: tuple[str, ...] = ()
    trace: str = ""


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a bulk call: a receipt, or the error that this item alone got."""

    receipt: Receipt | None = None
    error: OutlastError | None = None


class Page(msgspec.Struct, frozen=True):
    """Items, newest first, and where the next page starts (None: there is none)."""

    items: tuple[RequestView, ...]
    next: str | None


Admission = Callable[[str], AbstractContextManager[None]]
"""Lets a tenant's request in while it is being accepted; raises Unavailable (mode, backlog, disk)."""


class Signing:
    """The signing domain of one site."""

    def __init__(
        self,
        world: World,
        store: Store,
        intake: Intake,
        ids: Ids,
        admit: Admission,
    ) -> None:
        self._world = world
        self._store = store
        self._intake = intake
        self._ids = ids
        self._admit = admit

    # -- documents --------------------------------------------------------------------------------------------

    async def add_document(
        self,
        caller: Caller,
        chunks: AsyncIterator[bytes],
        *,
        media_type: str = PDF,
        class_name: str = "default",
        title: str = "",
        idempotency_key: str = "",
    ) -> Receipt:
        """Check, encrypt and store a document; its hash is locked from here on. Receipt.stream is its id."""
        with self._admit(caller.tenant):
            return await self._add_document(
                caller, chunks, media_type, class_name, title, idempotency_key
            )

    async def _add_document(
        self,
        caller: Caller,
        chunks: AsyncIterator[bytes],
        media_type: str,
        class_name: str,
        title: str,
        idempotency_key: str,
    ) -> Receipt:
        world = self._world
        document_class = world.class_of(class_name)
        details = Details(title=title)
        _check_texts(details)
        taken = await self._intake.take(caller.tenant, chunks, media_type, document_class)
        document_id = self._ids.new()
        subject_key, wrapped = world.subjects.new(caller.tenant, document_id)
        binding = context(caller.tenant, document_id, document_id)
        sealed = ""
        if title:
            sealed = world.envelope.seal_field(subject_key, binding, msgspec.json.encode(details))
        command = documents.AddDocument(
            at_ms=self._world.clock.now_ms(),
            media_type=media_type,
            blob=taken.blob,
            prepared=taken.prepared,
            pages=taken.facts.pages if taken.facts else 0,
            signatures=len(taken.facts.signatures) if taken.facts else 0,
            sealed=sealed,
        )
        body = f"{taken.blob.sha256}\x00{media_type}\x00{class_name}\x00{title}".encode()
        submission = self._submission(caller, documents.KIND, document_id, command)
        submission = msgspec.structs.replace(
            submission,
            idempotency=Idempotency(idempotency_key, body) if idempotency_key else None,
            subject_key=wrapped,
        )
        return await self._add(taken, submission)

    async def _add(self, taken: TakenIn, submission: Submission) -> Receipt:
        try:
            receipt = await self._world.door.submit(submission)
        except (Refused, Unavailable):  # Unknown: it may be on record, so its bytes stay
            await self._intake.forget(taken)
            raise
        if receipt.replayed:
            await self._intake.forget(taken)
        return receipt

    async def document(self, caller: Caller, document_id: str) -> DocumentView:
        """A document's facts."""
        document = await self._world.document(caller.tenant, document_id)
        details = await self._details(caller.tenant, document_id, document_id, document.sealed)
        return document_view(document_id, document, details)

    async def document_content(
        self, caller: Caller, document_id: str
    ) -> tuple[documents.Document, AsyncIterator[bytes]]:
        """A document's bytes as taken in."""
        document = await self._world.document(caller.tenant, document_id)
        return document, self._world.bodies.stream(caller.tenant, document.blob)

    # -- requests ---------------------------------------------------------------------------------------------

    async def request(
        self, caller: Caller, ask: SignatureAsk, idempotency: Idempotency | None = None
    ) -> Receipt:
        """Accept a request for signatures. Receipt.stream is its id. Repeated with its idempotency key it gets its
        first answer, also where it would be refused by now."""
        try:
            with self._admit(caller.tenant):
                return await self._world.door.submit(await self._asked(caller, ask, idempotency))
        except (Refused, Unavailable):
            if idempotency is None:
                raise
            known = await recall(self._store, caller.tenant, idempotency)
            if known is None:
                raise
            return known

    async def get(self, caller: Caller, request_id: str) -> RequestView:
        """A request as it stands."""
        row = await self._store.stream(StreamKey(caller.tenant, requests.KIND, request_id))
        if row is None:
            raise Refused("request-not-found", "no such signature request")
        return await self._view(caller.tenant, StreamItem(request_id, row))

    async def list(
        self,
        caller: Caller,
        *,
        status: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Requests, newest first."""
        limit = max(1, min(limit, MAX_PAGE))
        items = await self._store.streams(
            caller.tenant, requests.KIND, label=status, before=before, limit=limit
        )
        views = [await self._view(caller.tenant, item) for item in items]
        return Page(tuple(views), items[-1].id if len(items) == limit else None)

    async def signed_file(
        self, caller: Caller, request_id: str
    ) -> tuple[requests.Request, BlobRef, AsyncIterator[bytes]]:
        """The newest signed file; raises Refused ``not-signed-yet`` (retry later)."""
        request = await self._world.request(caller.tenant, request_id)
        revision = request.revision
        if revision is None:
            raise Refused(
                "not-signed-yet",
                f"the request is {request.label}",
                hint="Wait for it (GET with Prefer: wait, or the event stream).",
                retry="later" if request.label not in ("failed", "cancelled") else "never",
                retry_after_s=1,
            )
        return request, revision.blob, self._world.bodies.stream(caller.tenant, revision.blob)

    async def approve(
        self, caller: Caller, request_id: str, idempotency: Idempotency | None = None
    ) -> Receipt:
        """Approve a request of a class that needs it; not by whoever made it."""
        command = requests.ApproveRequest(at_ms=self._world.clock.now_ms(), by=caller.actor)
        return await self._submit(caller, requests.KIND, request_id, command, idempotency)

    async def cancel(
        self,
        caller: Caller,
        request_id: str,
        reason: str = "",
        version: int | None = None,
        idempotency: Idempotency | None = None,
    ) -> Receipt:
        """Withdraw a request that has no signature yet."""
        command = requests.CancelRequest(at_ms=self._world.clock.now_ms(), reason=reason)
        submission = self._submission(caller, requests.KIND, request_id, command)
        submission = msgspec.structs.replace(
            submission, expected_version=version, idempotency=idempotency
        )
        return await self._world.door.submit(submission)

    async def job_discarded(self, caller: Caller, job: JobRow, reason: str) -> None:
        """A person will never have this job run again: a request that hangs on it has failed, and says so."""
        kind, _, stream = job.stream.partition("/")
        if kind == requests.KIND and job.kind in (requests.SIGN_JOB, requests.TIMESTAMP_JOB):
            command = requests.FailRequest(
                at_ms=self._world.clock.now_ms(), reason=f"job-discarded: {reason}"
            )
            await self._submit(caller, requests.KIND, stream, command)

    # -- keys -------------------------------------------------------------------------------------------------

    async def enrol_key(
        self, caller: Caller, name: str, provider: str, key_ref: str, chain: Sequence[bytes]
    ) -> Receipt:
        """Bind a provider's key and its certificate chain (DER, signer first) to a name."""
        signer = self._world.signers.get(provider)
        if signer is None:
            known = ", ".join(sorted(self._world.signers)) or "none"
            raise Refused(
                "unknown-provider",
                f"no signing provider is called {provider!r}",
                hint=f"Configured are: {known}.",
            )
        info = await signer.describe(key_ref)
        facts = check_certificate(chain, info, self._world.clock.now_ms())
        binding = Binding(
            provider=provider,
            key_ref=key_ref,
            algorithm=info.algorithm,
            spki=info.spki_der,
            chain=tuple(chain),
            fingerprint=facts.fingerprint_sha256,
            subject=facts.subject,
            not_before_ms=facts.not_before_ms,
            not_after_ms=facts.not_after_ms,
        )
        command = keys.EnrolKey(at_ms=self._world.clock.now_ms(), binding=binding)
        return await self._submit(caller, keys.KIND, name, command)

    async def disable_key(
        self,
        caller: Caller,
        name: str,
        provider: str = "",
        reason: str = "",
        idempotency: Idempotency | None = None,
    ) -> Receipt:
        """Let a key, or its binding at one provider, sign no more."""
        at_ms = self._world.clock.now_ms()
        command = keys.DisableKey(at_ms=at_ms, provider=provider, reason=reason)
        return await self._submit(caller, keys.KIND, name, command, idempotency)

    async def enable_key(
        self,
        caller: Caller,
        name: str,
        provider: str = "",
        reason: str = "",
        idempotency: Idempotency | None = None,
    ) -> Receipt:
        """Let it sign again."""
        at_ms = self._world.clock.now_ms()
        command = keys.EnableKey(at_ms=at_ms, provider=provider, reason=reason)
        return await self._submit(caller, keys.KIND, name, command, idempotency)

    async def keys(self, caller: Caller) -> tuple[KeyView, ...]:
        """All signing keys of the tenant."""
        items = await self._store.streams(caller.tenant, keys.KIND, limit=MAX_PAGE)
        views = []
        for item in items:
            state = self._world.deciders.decode_state(keys.KIND, item.row.state)
            used = await self._store.counter(f"{caller.tenant}/key/{item.id}")
            views.append(key_view(item.id, item.row.version, state, used))
        return tuple(sorted(views, key=lambda view: view.name))

    # -- inside -----------------------------------------------------------------------------------------------

    async def _asked(
        self, caller: Caller, ask: SignatureAsk, idempotency: Idempotency | None
    ) -> Submission:
        world = self._world
        document_class = world.class_of(ask.class_name)
        document = await world.document(caller.tenant, ask.document)
        _check_bounds(document, document_class)
        format_ = ask.format or ("pades" if document.media_type == PDF else "cms")
        if format_ == "pades" and document.media_type != PDF:
            raise Refused("not-a-pdf", "only a PDF can be signed as PAdES", hint="Ask for cms.")
        places = await self._places(caller.tenant, ask, document_class)
        details = Details(
            name=ask.name,
            reason=ask.reason,
            location=ask.location,
            contact=ask.contact,
            title=ask.title,
            reference=ask.reference,
        )
        _check_texts(details)
        request_id = self._ids.new()
        sealed = await world.seal(caller.tenant, ask.document, request_id, details)
        command = requests.RequestSignature(
            at_ms=world.clock.now_ms(),
            by=caller.actor,
            document=ask.document,
            document_sha256=document.blob.sha256,
            class_name=ask.class_name,
            level=document_class.level,
            format=format_,
            places=places,
            owe_timestamp=document_class.owe_timestamp,
            approval=document_class.manual_approval,
            sealed=sealed,
        )
        submission = self._submission(caller, requests.KIND, request_id, command)
        return msgspec.structs.replace(submission, idempotency=idempotency)

    async def _places(
        self, tenant: str, ask: SignatureAsk, document_class: DocumentClass
    ) -> tuple[Place, ...]:
        if not 0 < len(ask.signatures) <= document_class.max_signatures:
            raise Refused(
                "signature-count",
                f"class {ask.class_name!r} allows 1 to {document_class.max_signatures} signatures",
            )
        places = tuple(
            [Place(key=p.key or document_class.key, field=p.field) for p in ask.signatures]
        )
        names = {place.key for place in places} if len(places) > 1 else (places[0].key,)
        for name in names:
            key = await self._world.key(tenant, name)
            if key.label == "disabled":
                raise Refused(
                    "key-disabled",
                    f"signing key {name!r} is disabled",
                    hint="Enable it with `outlast keys enable`, or name another key.",
                )
        return places

    async def _view(self, tenant: str, item: StreamItem) -> RequestView:
        state = self._world.deciders.decode_state(requests.KIND, item.row.state)
        details = await self._details(tenant, state.document, item.id, state.sealed)
        return request_view(item.id, item.row.version, state, details)

    async def _details(self, tenant: str, document_id: str, stream: str, sealed: str) -> Details:
        try:
            return await self._world.details(tenant, document_id, stream, sealed)
        except Refused:  # erased: the rest of the record stays readable
            return Details()

    async def _submit(
        self,
        caller: Caller,
        kind: str,
        stream: str,
        command: Command,
        idempotency: Idempotency | None = None,
    ) -> Receipt:
        submission = self._submission(caller, kind, stream, command)
        if idempotency is not None:
            submission = msgspec.structs.replace(submission, idempotency=idempotency)
        return await self._world.door.submit(submission)

    def _submission(self, caller: Caller, kind: str, stream: str, command: Command) -> Submission:
        return Submission(
            tenant=caller.tenant,
            actor=caller.actor,
            kind=kind,
            stream=stream,
            command=command,
            flags=caller.flags,
            trace=caller.trace,
        )


def _check_bounds(document: documents.Document, document_class: DocumentClass) -> None:
    """Refuse what intake would have refused, had the document come in under this class."""
    if document.blob.size > document_class.max_bytes:
        raise Refused(
            "body-too-large",
            f"class {document_class.name!r} takes documents of at most {document_class.max_bytes} bytes",
        )
    if document.pages > document_class.max_pages:
        raise too_many_pages(document_class.max_pages)


def _check_texts(details: Details) -> None:
    texts = msgspec.structs.astuple(details)
    if max(map(len, texts)) > MAX_TEXT_CHARS:
        field = next(
            f
            for f, t in zip(Details.__struct_fields__, texts, strict=True)
            if len(t) > MAX_TEXT_CHARS
        )
        raise Refused("field-too-long", f"{field} has more than {MAX_TEXT_CHARS} characters")
    if not (details.name or details.reason or details.location or details.contact):
        return  # nothing that stands in the signature
    check_fields(
        SignatureFields(
            signing_time_ms=0,
            name=details.name,
            reason=details.reason,
            location=details.location,
            contact=details.contact,
        )
    )
