"""Other systems' entries as they arrive: lines of JSON (NDJSON), checked strictly and then left as they are.

Guarantees: what comes out are the very bytes that came in, each a JSON object (RFC 8259) in UTF-8 that every parser
reads alike: no member twice in an object, no NaN or number beyond a double, no nesting beyond MAX_DEPTH. The first
line that is not so refuses the whole batch and is named, counting from 1 as editors do.

Bounded: by the length of the body, MAX_LINES and the length of a line. The usual case, lines as a JSON encoder writes
them without spaces, is checked for all lines in three calls: decode, encode, compare. Only an object that lost
nothing on the way, a doubled member for one, comes out the same. Others are looked at one by one.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from outlast.core.errors import Refused

MAX_LINES = 1_000
"""Most lines in a batch: one transaction, and about 10 ms of the event loop."""
MAX_BODY_BYTES = 1024 * 1024
"""Longest batch, in bytes."""
MAX_DEPTH = 64
"""Deepest nesting of arrays and objects in a line, itself included: readers recurse."""

_SPACE = b" \t\r"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(rb"[\[{\]}]")
_objects = msgspec.json.Decoder(dict[str, Any])
_encode_lines = msgspec.json.Encoder().encode_lines


def parse_lines(body: bytes, max_line_bytes: int) -> tuple[bytes, ...]:
    """The lines of a batch; blank ones at its end are passed over.

    Raises Refused ``entry-malformed`` or ``entry-too-large`` with the line's number in ``message`` and ``scope``
    (``line/17``), ``batch-size`` for no line or too many.
    """
    text = body.rstrip(b" \t\r\n")
    lines = text.split(b"\n")
    if not text or len(lines) > MAX_LINES:
        count = len(lines) if text else 0
        raise Refused(
            "batch-size",
            f"a batch has 1 to {MAX_LINES} lines, this one {count}",
            hint="Send the rest in further requests, each with an Idempotency-Key of its own.",
        )
    if not _plain(text, lines, max_line_bytes):
        lines = [_checked(number, line, max_line_bytes) for number, line in enumerate(lines, 1)]
    return tuple(lines)


def _plain(text: bytes, lines: list[bytes], max_line_bytes: int) -> bool:
    """Whether all lines are sound beyond doubt. False says nothing yet."""
    for line in lines:
        if len(line) > max_line_bytes or line.count(b"{") + line.count(b"[") > MAX_DEPTH:
            return False
    try:
        encoded = _encode_lines(_objects.decode_lines(text))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    # encode_lines ends its last line too
    return len(encoded) == len(text) + 1 and encoded.startswith(text)


def _checked(number: int, line: bytes, max_line_bytes: int) -> bytes:
    line = line.strip(_SPACE)
    if len(line) > max_line_bytes:
        raise Refused(
            "entry-too-large",
            f"line {number}: {len(line)} bytes; with its frame an entry may have {max_line_bytes} here",
            hint="Keep the large part elsewhere and record its SHA-256.",
            scope=f"line/{number}",
        )
    if not line:
        raise _malformed(number, "the line is blank")
    if _depth(line) > MAX_DEPTH:
        raise _malformed(number, f"nested deeper than {MAX_DEPTH}")
    try:
        _objects.decode(line)
        # decoded a second time to see members that come twice: msgspec keeps the last of them and says nothing
        json.loads(line, object_pairs_hook=_once)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _malformed(number, str(error)) from None
    return line


def _depth(line: bytes) -> int:
    if line.count(b"{") + line.count(b"[") <= MAX_DEPTH:
        return 1
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuses an object with a member twice. Its value is of no interest."""
    seen = {name for name, _ in pairs}
    if len(seen) != len(pairs):
        twice = next(name for name in seen if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"the member {twice[:60]!r} comes twice in an object")


def _malformed(number: int, why: str) -> Refused:
    return Refused(
        "entry-malformed",
        f"line {number}: {why}",
        hint="Each line is one JSON object (RFC 8259) in UTF-8, without members of the same name.",
        scope=f"line/{number}",
    )
