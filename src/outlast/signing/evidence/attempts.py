"""Whether the attempts on record are a possible history: pinned before the call, one effective signature per place."""

from __future__ import annotations

from collections.abc import Sequence

from outlast.signing.evidence.history import History, Step
from outlast.signing.model import request as requests


def impossible(history: History) -> str:
    """What no site that works could have recorded; nothing if all is possible."""
    first = history.steps[0].event
    if first.document_sha256 != history.document.blob.sha256:
        return "the request is for another document than the one taken in"
    problem = _approval(history.steps, first)
    for place in range(len(history.request.signatures)):
        problem = problem or _place(history.steps, place)
    return problem or _numbers(history.request)


def _approval(steps: Sequence[Step], first: requests.SignatureRequested) -> str:
    if not first.approval:
        return ""
    for step in steps:
        if isinstance(step.event, requests.RequestApproved):
            return "" if step.event.by != first.by else "whoever made the request approved it"
        if isinstance(step.event, requests.AttemptStarted):
            return "it was signed without the approval its class demands"
    return ""


def _place(steps: Sequence[Step], place: int) -> str:
    """One place: attempts numbered, each ended before the next, at most one signature."""
    where = f"signature {place + 1}"
    number, pin, value = 0, None, b""
    for step in steps:
        event = step.event
        if getattr(event, "place", None) != place:
            continue
        if isinstance(event, requests.AttemptStarted):
            number += 1
            if pin is not None or value or event.pin.attempt != number:
                return f"{where}: attempt {event.pin.attempt} began while another was open"
            pin = event.pin
        elif isinstance(event, requests.AttemptFailed):
            if pin is None or (event.attempt, event.provider) != (pin.attempt, pin.provider):
                return f"{where}: attempt {event.attempt} failed without having begun"
            pin = None
        elif isinstance(event, requests.SignatureObtained):
            if value:
                return f"{where}: two signatures are on record"
            if pin is None or (event.attempt, event.provider) != (pin.attempt, pin.provider):
                return f"{where}: a signature is on record that no open attempt asked for"
            value = event.value
        elif isinstance(event, requests.RevisionSigned) and not value:
            return f"{where}: a file was produced before there was a signature"
    return ""


def _numbers(request: requests.Request) -> str:
    """Sequence numbers grow, per document and per key."""
    of_document, of_key = 0, dict.fromkeys((s.key for s in request.signatures), 0)
    for i, signature in enumerate(request.signatures):
        if not signature.value:
            continue
        if (
            signature.document_number <= of_document
            or signature.key_number <= of_key[signature.key]
        ):
            return f"signature {i + 1}: its sequence numbers do not grow"
        of_document, of_key[signature.key] = signature.document_number, signature.key_number
    return ""
