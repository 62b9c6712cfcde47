"""Fixed-width places in a prepared signature dictionary, filled when the document is signed.

Guarantees: filling changes no offset, and what a person typed cannot leave its string (ISO 32000-2, 7.3.4). An
unused slot is all spaces, which PDF syntax skips. Refuses (``field-too-long``) text that does not fit.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from outlast.core.clock import to_datetime
from outlast.core.errors import Refused

SlotName = Literal["M", "Name", "Reason", "Location", "ContactInfo"]
SLOT_NAMES: tuple[SlotName, ...] = get_args(SlotName)

SLOT_WIDTHS: dict[SlotName, int] = {
    "M": 32,
    "Name": 320,
    "Reason": 640,
    "Location": 320,
    "ContactInfo": 320,
}
"""Bytes kept for each entry, key and delimiters included. Text with any letter outside ASCII, or a line end, takes 4 bytes a UTF-16 unit."""

_ESCAPES = str.maketrans({"\\": "\\\\", "(": "\\(", ")": "\\)"})


class Slot(msgspec.Struct, frozen=True):
    """``width`` bytes at ``offset`` of the revision."""

    name: SlotName
    offset: int
    width: int


class SignatureFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the signature dictionary says of the signing. The time is Unix milliseconds, claimed by the signer;
    empty text is left out of the document."""

    signing_time_ms: int
    name: str = ""
    reason: str = ""
    location: str = ""
    contact: str = ""


def slot_values(fields: SignatureFields) -> dict[SlotName, bytes]:
    """The entry for each slot that is used, not yet padded."""
    # ISO 32000-2, 7.9.4; the offset is written out because some readers do not take "Z"
    moment = to_datetime(fields.signing_time_ms)
    values: dict[SlotName, bytes] = {"M": moment.strftime("/M (D:%Y%m%d%H%M%S+00'00')").encode()}
    return values | _text_values(fields)


def check_fields(fields: SignatureFields) -> None:
    """Returns if every text fits its slot; raises Refused ``field-too-long``. To be asked at accept."""
    for name, text in _texts(fields):
        # even with every character escaped it would fit: the usual case, and on the hot path
        most = 2 * len(text) + len(name) + 4
        if most > SLOT_WIDTHS[name] or not (text.isascii() and text.isprintable()):
            _check_width(name, _entry(name, text), SLOT_WIDTHS[name])


def _text_values(fields: SignatureFields) -> dict[SlotName, bytes]:
    return {name: _entry(name, text) for name, text in _texts(fields)}


def _texts(fields: SignatureFields) -> list[tuple[SlotName, str]]:
    texts: tuple[tuple[SlotName, str], ...] = (
        ("Name", fields.name),
        ("Reason", fields.reason),
        ("Location", fields.location),
        ("ContactInfo", fields.contact),
    )
    return [(name, text) for name, text in texts if text]


def pad(slot: Slot, value: bytes) -> bytes:
    """The slot's bytes holding ``value``; raises Refused ``field-too-long``."""
    _check_width(slot.name, value, slot.width)
    return value.ljust(slot.width)


def text_string(text: str) -> bytes:
    """A PDF text string: literal for printable ASCII, UTF-16BE in hex otherwise (ISO 32000-2, 7.9.2.2).

    Raises Refused ``field-not-text`` for lone surrogates.
    """
    if text.isascii() and text.isprintable():
        return f"({text.translate(_ESCAPES)})".encode()
    try:
        encoded = text.encode("utf-16-be")
    except UnicodeEncodeError as error:
        raise Refused(
            "field-not-text",
            "a signature field holds text that is not Unicode",
            hint="Send valid UTF-8.",
        ) from error
    return b"<FEFF" + encoded.hex().upper().encode() + b">"


def _entry(name: SlotName, text: str) -> bytes:
    return b"/" + name.encode() + b" " + text_string(text)


def _check_width(name: SlotName, value: bytes, width: int) -> None:
    if len(value) > width:
        raise Refused(
            "field-too-long",
            f"the signature's {name} takes {len(value)} bytes of the {width} kept for it",
            hint=f"Shorten {name}. With any letter outside ASCII, all take four bytes.",
        )
