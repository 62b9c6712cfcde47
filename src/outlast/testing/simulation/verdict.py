"""What must hold of a simulated site that has come to rest: the promises, checked against log, files and clients.

- what a client was told is in the log, once, however often it was asked for;
- one signature and one file for each place, each verifying, each for the bytes it was pinned to;
- every timestamp that was promised is in the file that is handed out;
- numbers have no gaps; state is the fold of the log; no job is left;
- every node has published all of the log, and all nodes the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256, sha512
from typing import Any

from outlast.core.decider import Deciders
from outlast.core.log.entry import Entry
from outlast.core.routing.changes import ProviderEjected
from outlast.core.store.port import StreamKey
from outlast.signing.cms import verify_signature
from outlast.signing.cms.signed_data import signed_statement, timestamp_tokens
from outlast.signing.model.key import Binding
from outlast.signing.model.request import (
    KIND,
    AttemptFailed,
    AttemptStarted,
    Request,
    RevisionSigned,
    Signature,
    SignatureObtained,
    SignatureRequested,
    TimestampMissed,
    TimestampSettled,
)
from outlast.signing.pdf.revision import ContentsPlace, contents
from outlast.testing.audit import Audit, audit
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.clients import Plea
from outlast.testing.simulation.engine import run_now
from outlast.testing.simulation.node import Node
from outlast.testing.simulation.parts import GENERATIONS, Shelf, binding_of
from outlast.testing.simulation.site import Site


def judge_site(
    site: Site, nodes: Sequence[Node], pleas: Sequence[Plea], tokens: dict[str, bytes]
) -> int:
    """Raises Violation, or AssertionError from the audit; returns how many signatures there are."""
    found = run_now(audit(site.store, site.deciders))
    checks = site.checks
    unfinished = [job for job in found.jobs.values() if job.state != "done"]
    checks.always(not unfinished, f"jobs are left: {unfinished}")
    _numbers(checks, site.deciders, found)
    for plea in pleas:
        _Judgement(site, found, plea, tokens).give()
    for node in nodes:
        for other in nodes:
            site.reader.compare(node.files, other.files)
        if any(isinstance(change, ProviderEjected) for change in node.signers.changes()):
            checks.reachable("provider ejected")
    return sum(entry.type == SignatureObtained.name for entry in found.entries)


def _events(deciders: Deciders, entries: Sequence[Entry]) -> list[Any]:
    return [deciders.decode_event(entry.type, bytes(entry.data)) for entry in entries]


def _numbers(checks: Checks, deciders: Deciders, found: Audit) -> None:
    """Signatures are numbered per key and per document, without gaps, in the log's order."""
    given: dict[tuple[str, ...], list[int]] = defaultdict(list)
    requests: dict[tuple[str, str], SignatureRequested] = {}
    for entry in found.entries:
        event = deciders.decode_event(entry.type, bytes(entry.data))
        if isinstance(event, SignatureRequested):
            requests[entry.tenant, entry.stream] = event
        elif isinstance(event, SignatureObtained):
            asked = requests[entry.tenant, entry.stream]
            given[entry.tenant, "key", asked.places[event.place].key].append(event.key_number)
            given[entry.tenant, "document", asked.document].append(event.document_number)
    for name, numbers in given.items():
        whole = list(range(1, len(numbers) + 1))
        checks.always(numbers == whole, f"numbers of {name}: {numbers}")


class _Judgement:
    """One request of one client."""

    def __init__(self, site: Site, found: Audit, plea: Plea, tokens: dict[str, bytes]) -> None:
        self._site = site
        self._found = found
        self._plea = plea
        self._tokens = tokens
        self._shelf: Shelf = site.shelf

    def _always(self, holds: bool, what: str) -> None:
        self._site.checks.always(holds, f"{self._plea.key}: {what}")

    def give(self) -> None:
        """Everything that was promised about it."""
        plea, deciders = self._plea, self._site.deciders
        receipt = plea.receipt
        assert receipt is not None
        entry = self._found.entries[receipt.index]
        stream = f"{KIND}/{receipt.stream}"
        self._always((entry.tenant, entry.stream) == (plea.tenant, stream), "receipt is of another")
        self._always(entry.hlc == receipt.hlc, "receipt is of another time")
        asked = [
            e.stream
            for e in self._found.entries
            if e.type == SignatureRequested.name
            and deciders.decode_event(e.type, bytes(e.data)).document == plea.document  # type: ignore[attr-defined]  # it is one
        ]
        self._always(asked == [stream], f"its key made these requests: {asked}")
        row = run_now(self._site.store.stream(StreamKey(plea.tenant, KIND, receipt.stream)))
        assert row is not None
        request: Request = deciders.decode_state(KIND, row.state)
        events = _events(deciders, self._found.of_stream(plea.tenant, stream))
        self._history(events)
        wanted = "cancelled" if plea.cancelled else "completed"
        self._always(request.label == wanted, f"it is {request.label} ({request.reason})")
        if request.label == "completed":
            self._completed(request, events)

    def _history(self, events: Sequence[Any]) -> None:
        """One attempt at a time, one signature and one file for a place, in order."""
        attempts, signed, produced, open_attempt = 0, list[int](), list[int](), 0
        for event in events:
            if isinstance(event, AttemptStarted):
                if event.place != len(produced):
                    self._always(False, f"attempt at {event.place} before its turn")
                self._site.checks.sometimes(attempts > 0, "an attempt follows a failed one")
                attempts = 1 if event.pin.attempt == 1 else attempts + 1
                self._always(event.pin.attempt == attempts, "attempts are not counted")
                self._always(not open_attempt, "two attempts at once")
                open_attempt = event.pin.attempt
            elif isinstance(event, AttemptFailed):
                self._always(event.attempt == open_attempt, "an attempt failed that was not open")
                open_attempt = 0
            elif isinstance(event, SignatureObtained):
                self._always(event.attempt == open_attempt, "a value without its attempt")
                signed.append(event.place)
                open_attempt = 0
            elif isinstance(event, RevisionSigned):
                produced.append(event.place)
        self._always(signed == list(range(len(signed))), f"signatures: {signed}")
        self._always(produced == list(range(len(produced))), f"files: {produced}")

    def _completed(self, request: Request, events: Sequence[Any]) -> None:
        reachable = self._site.checks.reachable
        self._always(len(request.signatures) == self._plea.places, "places are missing")
        original = self._shelf.bodies[self._plea.blob.name]
        for place, signature in enumerate(request.signatures):
            self._signature(request, place, signature, original)
            if signature.failovers:
                reachable("attempt failed over")
        if any(isinstance(event, TimestampSettled) for event in events):
            missed = any(isinstance(event, TimestampMissed) for event in events)
            point = "timestamp missed and settled late" if missed else "timestamp owed and settled"
            reachable(point)
        if request.format == "pades" and len(request.signatures) > 1:
            reachable("second signature on the first's file")

    def _signature(
        self, request: Request, place: int, signature: Signature, original: bytes
    ) -> None:
        pin, revision = signature.pin, signature.revision
        assert pin is not None
        assert revision is not None
        newest = request.revision
        assert newest is not None
        file = self._body(revision.blob.name, revision.blob.sha256)
        handed_out = self._body(newest.blob.name, newest.blob.sha256)
        if request.format == "cms":
            cms = handed_out = file
            self._verifies(cms, signature, sha512(original).digest())
        else:
            self._always(handed_out.startswith(original), "the document was changed")
            self._always(
                signature.value.hex().encode() in handed_out, f"{place} is not in the file"
            )
            if revision.contents_offset:
                at = ContentsPlace(revision.contents_offset, revision.reserved_bytes)
                end = at.offset + 2 * at.reserved_bytes + 2
                covered = sha512(file[: at.offset] + file[end : revision.length]).digest()
                self._verifies(contents(file, at), signature, covered)
        if request.level == "B-T":
            self._stamped(request, signature, handed_out)

    def _verifies(self, cms: bytes, signature: Signature, digest: bytes) -> None:
        """The CMS is the one pinned and recorded, over these bytes, by the enrolled key."""
        assert signature.pin is not None
        tbs, value = signed_statement(cms)
        self._always(value == signature.value, "another value is in the file")
        self._always(sha256(tbs).hexdigest() == signature.pin.tbs_sha256, "not what was pinned")
        self._always(digest in tbs, "it signs other bytes")
        binding = self._binding(signature.pin.provider, signature.key, signature.pin.fingerprint)
        verify_signature(binding.spki, binding.algorithm, tbs, value)

    def _binding(self, provider: str, key: str, fingerprint: str) -> Binding:
        """The certificate that the attempt was pinned to, of whatever generation."""
        known = [binding_of(provider, key, generation) for generation in range(GENERATIONS)]
        found = [binding for binding in known if binding.fingerprint == fingerprint]
        self._always(len(found) == 1, "signed with a certificate that was never enrolled")
        if found[0] != known[0]:
            self._site.checks.reachable("signed with a rotated key")
        return found[0]

    def _stamped(self, request: Request, signature: Signature, handed_out: bytes) -> None:
        self._always(signature.timestamp == "present", f"its timestamp is {signature.timestamp}")
        assert signature.stamp is not None
        token = self._tokens[signature.stamp.token_sha256]
        if request.format == "cms":
            self._always(token in timestamp_tokens(handed_out), "the timestamp is not in the CMS")
        else:
            self._always(token.hex().encode() in handed_out, "the timestamp is not in the file")

    def _body(self, name: str, digest: str) -> bytes:
        body = self._shelf.bodies[name]
        self._always(sha256(body).hexdigest() == digest, f"{name} is not what the log says")
        return body
