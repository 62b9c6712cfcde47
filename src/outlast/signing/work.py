"""Signing's jobs: obtain a signature, produce the signed file, obtain the timestamp now or later.

    signing.sign       value on record; at B-B also the file
    signing.timestamp  token, then the file; or the file now and the timestamp owed
    signing.settle     the owed timestamp, into the reserved space or as a revision of its own

Each starts from what is on record, so it may be run again after a crash at any point: what is done is not done
twice, and what was stored but not recorded is an unused blob.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.commit import Finish, Submission
from outlast.core.decider import Command
from outlast.core.errors import Corrupt, Refused, Unavailable
from outlast.core.telemetry import current_span
from outlast.core.work.runner import Job, Kind
from outlast.ports.timestamp import Token
from outlast.signing.attempt import Attempts, Statement, statement
from outlast.signing.cms import add_timestamp
from outlast.signing.model.request import (
    KIND,
    SETTLE_JOB,
    SIGN_JOB,
    TIMESTAMP_JOB,
    FailRequest,
    MissTimestamp,
    PlaceJob,
    RecordRevision,
    Request,
    Revision,
    SettleTimestamp,
    Signature,
    Stamp,
)
from outlast.signing.pdf.facts import PrepareOptions
from outlast.signing.pdf.revision import (
    ContentsPlace,
    contents,
    embed_in_place,
    fill,
    signed_revision,
)
from outlast.signing.source import Source, load_source, revision_of, store_with, whole
from outlast.signing.stamping import Stamped, nobody, obtain_token, record_of
from outlast.signing.world import World

SIGN_BACKOFF = BackoffPolicy(initial_ms=200, max_ms=15_000, attempts=60)
"""About a quarter of an hour of outages before a person is asked."""
TIMESTAMP_BACKOFF = BackoffPolicy(initial_ms=200, max_ms=5_000, attempts=200)
SETTLE_BACKOFF = BackoffPolicy(initial_ms=1_000, max_ms=60_000, attempts=1_000_000)
"""An owed timestamp ends by its deadline, not by a number of tries."""
WAIT_FOR_LATER_SIGNATURES_S = 5.0
"""How often a settlement looks whether the request's later signatures are in."""

RESERVATION_TOO_SMALL = "reservation-too-small"
"""Code of the refusal of a CMS that its place in the file has no room for."""

TIMESTAMP_OWED = "timestamp-owed"
"""The degradation that policy is asked about (action Degrade)."""

_payload = msgspec.json.Decoder(PlaceJob).decode


class _Settled(msgspec.Struct, frozen=True):
    """A file with the timestamp that was owed for ``places``; ``is_of_document``: in a revision of its own."""

    file: bytes
    places: tuple[int, ...]
    token: Token
    tried: tuple[str, ...]
    is_of_document: bool


def kinds(world: World) -> dict[str, Kind]:
    """Handlers by kind of job, for the runner."""
    handlers = Handlers(world)
    return {
        SIGN_JOB: Kind(handlers.sign, SIGN_BACKOFF),
        TIMESTAMP_JOB: Kind(handlers.timestamp, TIMESTAMP_BACKOFF),
        SETTLE_JOB: Kind(handlers.settle, SETTLE_BACKOFF),
    }


class Handlers:
    """Job handlers over a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def sign(self, job: Job) -> None:
        """Obtain the signature for a place; at B-B produce its file."""
        place = _payload(job.row.payload).place
        request = await self._world.request(job.tenant, job.stream_id)
        if request.current != place or request.label in ("failed", "cancelled"):
            return
        try:
            await self._sign(job, request, place)
        except Refused as error:
            await self._give_up(job, error)

    async def _sign(self, job: Job, request: Request, place: int) -> None:
        world = self._world
        source = await load_source(world, job.tenant, request, place)
        said: Statement | None = None
        if not request.signatures[place].value:
            details = await world.details(
                job.tenant, request.document, job.stream_id, request.sealed
            )
            said = await Attempts(world, job, request, place, source, details).obtain()
            request = await world.request(job.tenant, job.stream_id)
        if request.level == "B-B":
            await self._produce(job, request, place, source, said=said)

    async def timestamp(self, job: Job) -> None:
        """Stamp a fresh signature and produce its file, or owe the timestamp where the class permits."""
        world, place = self._world, _payload(job.row.payload).place
        request = await world.request(job.tenant, job.stream_id)
        signature = request.signatures[place]
        if signature.revision is not None or not signature.value:
            return
        document_class = world.class_of(request.class_name)
        stamped = await obtain_token(
            world, job.tenant, document_class, sha256(signature.value).digest()
        )
        now_ms = world.clock.now_ms()
        due_ms = 0
        if stamped.token is None:
            waited_ms = now_ms - job.row.created_ms
            if not self._may_owe(request) or waited_ms < document_class.timestamp_patience_ms:
                raise nobody(stamped.tried)
            due_ms = now_ms + document_class.timestamp_deadline_s * 1000
        try:
            source = await load_source(world, job.tenant, request, place)
            await self._stamped(job, request, place, source, stamped, due_ms)
        except Refused as error:
            await self._give_up(job, error)

    async def _stamped(
        self, job: Job, request: Request, place: int, source: Source, stamped: Stamped, due_ms: int
    ) -> None:
        """The file with its timestamp; without, where the token has no room in it and the class lets it be owed:
        the settlement then puts it into a revision of its own."""
        try:
            await self._produce(job, request, place, source, stamped.token, due_ms, stamped.tried)
        except Refused as error:
            if error.code != RESERVATION_TOO_SMALL or not self._may_owe(request):
                raise
            deadline_s = self._world.class_of(request.class_name).timestamp_deadline_s
            due_ms = self._world.clock.now_ms() + deadline_s * 1000
            await self._produce(job, request, place, source, None, due_ms, stamped.tried)

    def _may_owe(self, request: Request) -> bool:
        """Whether class and policy let the file out before its timestamp."""
        forbidden = self._world.degraded(request.class_name, TIMESTAMP_OWED)
        return request.owe_timestamp and not forbidden

    async def settle(self, job: Job) -> None:
        """Obtain an owed timestamp and put it into the newest file."""
        world, place = self._world, _payload(job.row.payload).place
        request = await world.request(job.tenant, job.stream_id)
        signature = request.signatures[place]
        if signature.timestamp not in ("owed", "missed"):
            return
        now_ms = world.clock.now_ms()
        if signature.timestamp == "owed" and now_ms >= signature.timestamp_due_ms:
            await self._submit(job, MissTimestamp(at_ms=now_ms, place=place))
            raise Refused(
                "timestamp-missed",
                "no authority gave the owed timestamp before its deadline",
                hint="Replay this job once an authority answers; the late timestamp is then added.",
            )
        if request.label in ("queued", "signing", "signed"):
            raise Unavailable(
                "later-signatures-pending",
                "the timestamp goes into the file with all of its signatures",
                retry_after_s=WAIT_FOR_LATER_SIGNATURES_S,
            )
        holder = _holder(request, place)
        revision = request.signatures[holder].revision
        assert revision is not None, "what owes a timestamp has a file"
        async with whole(world, revision.blob):
            await self._settle(job, request, place, holder, revision)

    async def _settle(
        self, job: Job, request: Request, place: int, holder: int, revision: Revision
    ) -> None:
        document = await self._world.bodies.read(job.tenant, revision.blob)
        alone = request.format == "cms" or (holder == place and _owes_only(request, place))
        settled = None
        if alone:
            settled = await self._settled_inside(job, request, place, document)
        if settled is None:
            settled = await self._settled_behind(job, request, document)
        new = msgspec.structs.replace(
            revision, blob=await self._world.bodies.put_bytes(job.tenant, settled.file)
        )
        command = SettleTimestamp(
            at_ms=self._world.clock.now_ms(),
            places=settled.places,
            holder=holder,
            revision=new,
            stamp=await record_of(
                self._world, job.tenant, settled.token, document=settled.is_of_document
            ),
            tried=settled.tried,
        )
        await self._submit(job, command, job.done())

    async def _settled_inside(
        self, job: Job, request: Request, place: int, document: bytes
    ) -> _Settled | None:
        """The timestamp inside the signature; None where the space reserved in the file is too small for it."""
        signature = request.signatures[place]
        assert signature.revision is not None, "what owes a timestamp has a file"
        digest = sha256(signature.value).digest()
        token, tried = await self._token(job, request, digest)
        try:
            file = _upgraded(request, signature.revision, document, token)
        except Refused as error:
            if error.code != RESERVATION_TOO_SMALL:
                raise
            return None
        return _Settled(file, (place,), token, tried, False)

    async def _settled_behind(self, job: Job, request: Request, document: bytes) -> _Settled:
        """A document timestamp in a revision of its own: it covers every signature before it."""
        reserve = self._world.class_of(request.class_name).reserve
        options = PrepareOptions(kind="document-timestamp", reserve_bytes=reserve)
        filled = fill(document, await self._world.prepare(document, options), None)
        token, tried = await self._token(job, request, filled.digest)
        places = tuple(i for i, s in enumerate(request.signatures) if _owes(s))
        file = document + signed_revision(filled, token.der)
        return _Settled(file, places, token, tried, True)

    async def _token(
        self, job: Job, request: Request, digest: bytes
    ) -> tuple[Token, tuple[str, ...]]:
        """A token and the authorities that failed before; raises Unavailable where none gives one."""
        document_class = self._world.class_of(request.class_name)
        stamped = await obtain_token(self._world, job.tenant, document_class, digest)
        if stamped.token is None:
            raise nobody(stamped.tried)
        return stamped.token, stamped.tried

    async def _produce(
        self,
        job: Job,
        request: Request,
        place: int,
        source: Source,
        token: Token | None = None,
        due_ms: int = 0,
        tried: tuple[str, ...] = (),
        said: Statement | None = None,
    ) -> None:
        """Put the signature on record into its file, store that, and end the job with the record of it."""
        world = self._world
        signature = request.signatures[place]
        if said is None:
            said = await self._said(job, request, signature, source)
        cms = said.template.finish(said.tbs, signature.value, token.der if token else None)
        if said.filled is None:
            blob = await world.bodies.put_bytes(job.tenant, cms)
        else:
            blob = await store_with(world, source, signed_revision(said.filled, cms))
        stamp: Stamp | None = None
        if token is not None:
            stamp = await record_of(world, job.tenant, token)
        command = RecordRevision(
            at_ms=world.clock.now_ms(),
            place=place,
            revision=revision_of(blob, source),
            stamp=stamp,
            due_ms=due_ms,
            tried=tried,
        )
        await self._submit(job, command, job.done())
        is_last = place == len(request.signatures) - 1
        if is_last and not world.class_of(request.class_name).manual_approval:
            world.signed.observe((command.at_ms - request.requested_ms) / 1000, current_span())

    async def _said(
        self, job: Job, request: Request, signature: Signature, source: Source
    ) -> Statement:
        """What was signed, made again from the record, and compared with the digest the attempt was pinned to."""
        pin = signature.pin
        assert pin is not None, "a value on record has its attempt's pin"
        key = await self._world.key(job.tenant, signature.key)
        binding = key.by_fingerprint(pin.fingerprint)
        if binding is None:
            raise Corrupt(
                "certificate-forgotten",
                f"the certificate {pin.fingerprint} that signed is not on record",
            )
        details = await self._world.details(
            job.tenant, request.document, job.stream_id, request.sealed
        )
        said = statement(source, binding, details, pin.signing_time_ms)
        if sha256(said.tbs).hexdigest() != pin.tbs_sha256:
            raise Corrupt(
                "pin-mismatch",
                "the bytes that were signed cannot be made again from the record",
                hint="The document, its prepared revision or the request's details have changed.",
            )
        return said

    async def _give_up(self, job: Job, error: Refused) -> None:
        command = FailRequest(
            at_ms=self._world.clock.now_ms(), reason=f"{error.code}: {error.message}"
        )
        await self._submit(job, command, job.done())

    async def _submit(self, job: Job, command: Command, finish: Finish | None = None) -> None:
        await self._world.door.submit(
            Submission(
                tenant=job.tenant,
                actor=self._world.actor,
                kind=KIND,
                stream=job.stream_id,
                command=command,
                cause=f"job/{job.row.id}",
                trace=job.row.trace,
                finish=finish,
            )
        )


def _owes(signature: Signature) -> bool:
    return signature.timestamp in ("owed", "missed")


def _owes_only(request: Request, place: int) -> bool:
    return all(i == place or not _owes(s) for i, s in enumerate(request.signatures))


def _holder(request: Request, place: int) -> int:
    """The place whose file an owed timestamp goes into: its own for a detached CMS, else the newest."""
    if request.format == "cms":
        return place
    return max(i for i, s in enumerate(request.signatures) if s.revision is not None)


def _upgraded(request: Request, revision: Revision, document: bytes, token: Token) -> bytes:
    if request.format == "cms":
        return add_timestamp(document, token.der)
    at = ContentsPlace(revision.contents_offset, revision.reserved_bytes)
    return embed_in_place(document, at, add_timestamp(contents(document, at), token.der))
