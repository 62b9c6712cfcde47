"""Obtaining one signature value: choose, pin, call, verify, record; on to the next provider when it fails.

An attempt is on record before its provider is called, with the digest it is bound to. Signing has no effect but
the value itself, so an outcome nobody knows (a timeout) is closed as failed and the next provider asked: if the
late answer ever comes, its attempt is closed and the value is dropped.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from outlast.core.clock import iso
from outlast.core.commit import Submission
from outlast.core.decider import Command
from outlast.core.errors import Conflict, OutlastError, Refused, Unavailable
from outlast.core.routing.choose import Candidate, Choice, Pick, RoutePolicy, RouteRequest
from outlast.core.routing.outcome import (
    BAD_SIGNATURE,
    CANCELLED,
    OK,
    TIMED_OUT,
    Outcome,
    outcome_of,
)
from outlast.core.routing.router import Call
from outlast.core.telemetry import Span, traced
from outlast.core.work.runner import Job
from outlast.ports.keys import SignRequest
from outlast.signing.cms import CmsTemplate, message_digest, verify_signature
from outlast.signing.model.key import Binding, SigningKey
from outlast.signing.model.request import (
    KIND,
    FailAttempt,
    Pin,
    RecordSignature,
    Request,
    StartAttempt,
)
from outlast.signing.pdf.revision import Filled, fill
from outlast.signing.pdf.slots import SignatureFields
from outlast.signing.source import Source
from outlast.signing.world import Details, World

CERTIFICATE_RETRY_S = 15.0
"""How often a request looks whether there is a valid certificate again."""
MAX_DETAIL_CHARS = 200
"""Of a provider's error kept on record."""


class Statement(msgspec.Struct, frozen=True):
    """What a binding is asked to sign: the exact bytes, and what turns its answer into a CMS."""

    binding: Binding
    template: CmsTemplate
    tbs: bytes
    filled: Filled | None


class Routed(msgspec.Struct, frozen=True):
    """A pick, the leave the router gave for it, and the binding it stands for."""

    pick: Pick
    call: Call
    binding: Binding


def statement(
    source: Source, binding: Binding, details: Details, signing_time_ms: int
) -> Statement:
    """The bytes to sign for a binding at a claimed time; the same input gives the same bytes."""
    if source.prepared is None:
        template = CmsTemplate.for_certificate(binding.chain, binding.algorithm, "detached")
        digest = source.hashed.state(message_digest(binding.algorithm)).digest()
        return Statement(
            binding, template, template.signed_attributes(digest, signing_time_ms), None
        )
    fields = SignatureFields(
        signing_time_ms=signing_time_ms,
        name=details.name,
        reason=details.reason,
        location=details.location,
        contact=details.contact,
    )
    filled = fill(source.hashed, source.prepared, fields, binding.algorithm)
    template = CmsTemplate.for_certificate(binding.chain, binding.algorithm, "pades")
    return Statement(binding, template, template.signed_attributes(filled.digest), filled)


class Attempts:
    """The attempts of one job at one place."""

    def __init__(
        self, world: World, job: Job, request: Request, place: int, source: Source, details: Details
    ) -> None:
        self._world = world
        self._job = job
        self._request = request
        self._place = place
        self._source = source
        self._details = details
        self._tried: set[str] = set()
        # those that failed in an earlier run of this job are asked again within their retry budget only
        failovers = request.signatures[place].failovers
        self._retrying = frozenset(item.split(":", 1)[0] for item in failovers)
        self._ours = True

    async def obtain(self) -> Statement | None:
        """Return when a value is on record: what was signed, or None where somebody else's came first. Raises
        Refused when no provider may ever sign, Unavailable when none can now."""
        signature = self._request.signatures[self._place]
        key = await self._world.key(self._job.tenant, signature.key)
        if signature.pin is not None:
            # A process died while this attempt was open: its outcome is unknown, and asking again is harmless.
            await self._fail(signature.pin, "unknown", "interrupted")
        while True:
            routed = self._route(key, signature.key)
            attempt = self._attempt(routed, signature.key)
            tracer = self._world.tracer
            span = None if tracer is None else tracer.child("attempt")
            said = await (attempt if span is None else traced(span, attempt))
            if said is not None:
                return said if self._ours else None
            self._tried.add(routed.binding.provider)

    def _route(self, key: SigningKey, name: str) -> Routed:
        usable = self._usable(key, name)
        for _ in range(len(usable) + 1):
            choice = self._choice(usable)
            if not choice.order:
                raise _nobody(choice)
            pick = choice.order[0]
            retry = pick.provider in self._retrying
            call = self._world.signer_router.begin(pick, retry=retry)
            if call is not None:
                return Routed(pick, call, usable[pick.provider])
        raise Unavailable("no-provider", "every provider changed while choosing", retry_after_s=0.1)

    def _choice(self, usable: dict[str, Binding]) -> Choice:
        world, document_class = self._world, self._world.class_of(self._request.class_name)
        denied = {
            provider: reason
            for provider in usable
            if (reason := world.denied(self._job.tenant, document_class.name, provider))
        }
        candidates = [Candidate(p, world.regions.get(p, "")) for p in usable]
        policy = RoutePolicy(
            preferred=document_class.providers, regions=document_class.residency, denied=denied
        )
        request = RouteRequest(tried=frozenset(self._tried), retrying=self._retrying)
        return world.signer_router.plan(candidates, policy, request)

    def _usable(self, key: SigningKey, name: str) -> dict[str, Binding]:
        world, allowed = self._world, self._world.class_of(self._request.class_name).providers
        now_ms = world.clock.now_ms()
        enrolled = [
            b for b in key.bindings
            if b.provider in world.signers and (not allowed or b.provider in allowed)
        ]  # fmt: skip
        enabled = [b for b in enrolled if not b.disabled]
        if enrolled and not enabled:
            raise Refused(
                "key-disabled",
                f"signing key {name!r} is disabled",
                hint="Enable it with `outlast keys enable`, or name another key.",
            )
        valid = [b for b in enabled if b.not_before_ms <= now_ms < b.not_after_ms]
        if not enrolled:
            raise Refused(
                "no-usable-certificate",
                f"signing key {name!r} is not enrolled at a provider that class"
                f" {self._request.class_name!r} may use",
                hint="Enrol a key and certificate with `outlast keys enrol`.",
            )
        if not valid:
            # a certificate can be renewed and a clock set right: the request waits, then becomes a dead letter
            raise Unavailable(
                "no-valid-certificate",
                f"no certificate of signing key {name!r} is valid at {iso(now_ms)}",
                hint="Check this machine's clock, or enrol a new certificate with `outlast keys enrol`;"
                " the request is retried by itself.",
                retry_after_s=CERTIFICATE_RETRY_S,
            )
        return {b.provider: b for b in valid}

    async def _attempt(self, routed: Routed, key_name: str) -> Statement | None:
        """What the provider signed, when a signature is on record now."""
        world, binding = self._world, routed.binding
        now_ms = world.clock.now_ms()
        try:
            said = statement(self._source, binding, self._details, now_ms)
            pin = await self._start(said, now_ms, routed.pick)
        except BaseException:
            world.signer_router.finished(routed.call, Outcome("cancelled"))
            raise
        span: Span | None = None
        if world.tracer is not None:
            breaker = world.signer_router.state(binding.provider)
            span = world.tracer.call("sign", "signer", binding.provider, breaker)
        outcome, value, detail = CANCELLED, None, ""
        try:
            outcome, value, detail = await self._call(routed, said, pin, span)
        finally:
            if span is not None:
                span.called(outcome.kind, outcome.failed, outcome.code)
        world.signer_router.finished(routed.call, outcome)
        if value is None:
            await self._fail(pin, outcome.kind, detail)
            return None
        await self._record(pin, key_name, value)
        return said

    async def _call(
        self, routed: Routed, said: Statement, pin: Pin, span: Span | None
    ) -> tuple[Outcome, bytes | None, str]:
        world, binding = self._world, said.binding
        router = world.signer_router
        operation = f"{self._job.stream_id}/{self._place}/{pin.attempt}"
        ask = SignRequest(
            key_ref=binding.key_ref,
            algorithm=binding.algorithm,
            tbs=said.tbs,
            operation=operation,
            traceparent="" if span is None else span.traceparent,
        )
        router.sent(routed.call)
        try:
            value = await world.within(
                router.deadline_ms(binding.provider), world.signers[binding.provider].sign(ask)
            )
        except TimeoutError:
            return TIMED_OUT, None, "no answer in time"
        except Exception as error:
            detail = error.code if isinstance(error, OutlastError) else type(error).__name__
            return outcome_of(error), None, detail
        except BaseException:
            router.finished(routed.call, Outcome("cancelled"))
            raise
        try:
            verify_signature(binding.spki, binding.algorithm, said.tbs, value)
        except Refused as error:
            return BAD_SIGNATURE, None, error.code
        return OK, value, ""

    async def _start(self, said: Statement, now_ms: int, pick: Pick) -> Pin:
        command = StartAttempt(
            at_ms=now_ms,
            place=self._place,
            provider=said.binding.provider,
            fingerprint=said.binding.fingerprint,
            tbs_sha256=sha256(said.tbs).hexdigest(),
            signing_time_ms=now_ms,
            reason=pick.reason,
        )
        receipt = await self._world.door.submit(self._submission(command))
        return msgspec.json.decode(receipt.reply, type=Pin)

    async def _fail(self, pin: Pin, outcome: str, detail: str) -> None:
        command = FailAttempt(
            at_ms=self._world.clock.now_ms(),
            place=self._place,
            attempt=pin.attempt,
            outcome=outcome,
            detail=detail[:MAX_DETAIL_CHARS],
        )
        await self._world.door.submit(self._submission(command))

    async def _record(self, pin: Pin, key_name: str, value: bytes) -> None:
        tenant = self._job.tenant
        counters = (f"{tenant}/key/{key_name}", f"{tenant}/document/{self._request.document}")
        command = RecordSignature(
            at_ms=self._world.clock.now_ms(),
            place=self._place,
            attempt=pin.attempt,
            value=value,
            key_counter=counters[0],
            document_counter=counters[1],
        )
        submission = self._submission(command)
        # At B-T the decision makes a job for the timestamp and this one ends with it.
        finish = self._job.done() if self._request.level == "B-T" else None
        submission = msgspec.structs.replace(submission, counters=counters, finish=finish)
        try:
            await self._world.door.submit(submission)
        except Conflict as error:
            if error.code != "already-signed":
                raise
            self._job.finished = False
            self._ours = False

    def _submission(self, command: Command) -> Submission:
        return Submission(
            tenant=self._job.tenant,
            actor=self._world.actor,
            kind=KIND,
            stream=self._job.stream_id,
            command=command,
            cause=f"job/{self._job.row.id}",
            trace=self._job.row.trace,
        )


def _nobody(choice: Choice) -> Unavailable:
    reasons = "; ".join(f"{r.provider}: {r.text}" for r in choice.rejected)
    # whoever failed in this round may be asked in the next: then a throttling provider's wait is not ours
    may_try_again = any(r.reason == "already-tried" for r in choice.rejected)
    wait_s = None
    if choice.retry_in_ms is not None and not may_try_again:
        wait_s = choice.retry_in_ms / 1000
    return Unavailable(
        "no-provider",
        f"no signing provider can be used now ({reasons})",
        hint="The request stays queued and is retried by itself.",
        retry_after_s=wait_s,
    )
