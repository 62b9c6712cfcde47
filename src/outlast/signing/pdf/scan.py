"""Looking over the raw bytes of a PDF before any parser does.

Guarantees, in time linear in the file and the decode limit: the file is one PDF from its first byte to its last,
it has no more objects than allowed, its compressed streams (nested filters included) expand to no more than
allowed, and no name of active content occurs outside compressed page content. The search is lexical on purpose:
it does not depend on the cross-reference table, so what one reader sees and another does not is found as well.
The price: a document that spells ``/JavaScript`` in uncompressed text is refused too.

Not decoded: LZW and run-length data, which expand by a bounded factor on their own; chained with another
compressing filter they are refused.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator

import msgspec

from outlast.core.errors import Refused
from outlast.signing.pdf.facts import Limits
from outlast.signing.pdf.refusals import bomb, malformed

ACTIVE_NAMES = (
    b"/JavaScript",
    b"/Launch",
    b"/SubmitForm",
    b"/ImportData",
    b"/Rendition",
    b"/RichMedia",
    b"/GoToE",
    b"/XFA",
)
"""Actions and content that run, send, load or replace something when the document is opened or clicked."""

_WATCHED_IF_ESCAPED = frozenset(
    (
        *ACTIVE_NAMES,
        b"/ObjStm",
        b"/First",
        b"/FlateDecode",
        b"/Fl",
        b"/Encrypt",
        b"/W",
        b"/XRef",
    )
)
_AFTER_NAME = re.compile(rb"[\s()<>\[\]{}/%]|\Z")
_ESCAPED_NAME = re.compile(rb"/[A-Za-z0-9]*#[0-9A-Fa-f]{2}[A-Za-z0-9#]*")
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_STREAM = re.compile(rb"stream\r?\n")
_FILTER = re.compile(
    rb"/(FlateDecode|Fl|LZWDecode|LZW|RunLengthDecode|RL|ASCII85Decode|A85|ASCIIHexDecode|AHx)\b"
)
_EXTERNAL = re.compile(rb"/F(?=[\s(<\[])")
_WIDTHS = re.compile(rb"/W\s*\[([\d\s]{1,200})\]")
_INDEX = re.compile(rb"/Index\s*\[([\d\s]*)\]")
_SIZE = re.compile(rb"/Size\s+(\d{1,18})")
_HEADER = re.compile(rb"%PDF-[12]\.\d")

HEADER_SEARCH_BYTES = 1024
"""Where some readers still look for a header that is not at the start."""
TAIL_BYTES = 2048
"""Where ``startxref`` and ``%%EOF`` are looked for."""
_INPUT_PIECE = 16 * 1024
_OUTPUT_PIECE = 256 * 1024


class ScanResult(msgspec.Struct, frozen=True):
    """``objects`` counts objects in the file and in object streams; ``decoded_bytes`` what streams expand to."""

    objects: int
    decoded_bytes: int


class _Budget:
    """Bytes that may still be decoded, over all streams and every layer of nested filters."""

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit

    def take(self, count: int) -> None:
        self.used += count
        if self.used > self._limit:
            raise bomb()


def scan(data: bytes, limits: Limits) -> ScanResult:
    """What the whole file amounts to, if it may be parsed at all.

    Raises Refused: ``pdf-too-large``, ``not-a-pdf``, ``pdf-malformed``, ``pdf-truncated``, ``pdf-bomb``,
    ``pdf-active-content``.
    """
    _check_frame(data, limits)
    objects = data.count(b" obj")
    _check_objects(objects, limits)
    check_active(data)
    budget = _Budget(limits.max_decoded_bytes)
    for head, body in _streams(data):
        _check_external(head)
        _check_xref_stream(head, limits)
        pieces = _decoded(head, body, budget)
        if b"/ObjStm" in head or b"/First" in head:
            check_active(b"".join(pieces))
            objects += _packed_objects(head)
            _check_objects(objects, limits)
        else:
            for _ in pieces:
                pass  # only counted
    return ScanResult(objects, budget.used)


def check_size(size_bytes: int, limits: Limits) -> None:
    """Returns if a document of this size may be looked at; raises Refused ``pdf-too-large``."""
    if size_bytes > limits.max_bytes:
        raise _too_large(f"the document has {size_bytes} bytes, at most {limits.max_bytes} may be")


def check_active(text: bytes) -> None:
    """Returns if no active content is named; raises Refused ``pdf-active-content``."""
    for name in ACTIVE_NAMES:
        at = text.find(name)
        while at >= 0:
            if _AFTER_NAME.match(text, at + len(name)):
                raise _active(name[1:].decode())
            at = text.find(name, at + 1)
    for match in _ESCAPED_NAME.finditer(text):
        plain = _ESCAPE.sub(lambda hit: bytes((int(hit[1], 16),)), match[0])
        if plain in _WATCHED_IF_ESCAPED:
            raise _active(f"disguised {plain[1:].decode()}")


def _check_frame(data: bytes, limits: Limits) -> None:
    check_size(len(data), limits)
    if not _HEADER.match(data):
        if b"%PDF-" in data[:HEADER_SEARCH_BYTES]:
            raise malformed(
                "it does not begin with its header, so it may be two kinds of file at once"
            )
        raise Refused(
            "not-a-pdf",
            "the file is not a PDF",
            hint="Submit a PDF, or ask for a detached signature over a file of another type.",
        )
    tail = data[-TAIL_BYTES:]
    end = tail.rfind(b"%%EOF")
    if end < 0 or b"startxref" not in tail[:end]:
        raise Refused(
            "pdf-truncated",
            "the document's end is missing",
            hint="The upload or the copy was cut short: send the complete file again.",
        )
    if tail[end + 5 :].strip(b"\0\t\n\f\r "):
        raise malformed("something follows its end, so it may be two kinds of file at once")


def _streams(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Each stream's dictionary (with what stands before it, at most) and the bytes from its start on."""
    view = memoryview(data)
    end = 0
    for match in _STREAM.finditer(data):
        if data.endswith(b"end", end, match.start()):
            continue  # tested here: a look-behind makes the search forty times slower
        head = data[end : match.start()]
        end = match.end()
        yield head[max(0, head.rfind(b" obj")) :], view[end:]


def _decoded(head: bytes, body: memoryview, budget: _Budget) -> Iterator[bytes]:
    """The stream's data after its filters, in pieces; nothing where a filter is not ours or the data is bad."""
    filters = [name.decode() for name in _FILTER.findall(head)]
    packers = [name for name in filters if not name.startswith("A")]
    if len(packers) > 1 and any(not name.startswith("F") for name in packers):
        raise bomb()
    if not packers or packers[0][0] != "F":
        return
    pieces = _pieces(body) if filters[0] == packers[0] else iter((_unarmoured(filters[0], body),))
    for _ in packers:
        pieces = _inflated(pieces, budget)
    yield from pieces


def _pieces(body: memoryview) -> Iterator[bytes]:
    """The bytes from a stream's start to the end of the file: deflated data knows its own end."""
    for start in range(0, len(body), _INPUT_PIECE):
        yield bytes(body[start : start + _INPUT_PIECE])


def _inflated(pieces: Iterator[bytes], budget: _Budget) -> Iterator[bytes]:
    decoder = zlib.decompressobj()
    try:
        for piece in pieces:
            pending = piece
            while pending and not decoder.eof:
                out = decoder.decompress(pending, _OUTPUT_PIECE)
                budget.take(len(out))
                yield out
                pending = decoder.unconsumed_tail
            if decoder.eof:
                return
    except zlib.error:
        return  # not deflated after all, or damaged: whatever reads it will stop here as well


def _unarmoured(name: str, body: memoryview) -> bytes:
    text = bytes(body)
    end = text.find(b"endstream")
    text = text[: end if end >= 0 else None].strip()
    try:
        if name.startswith(("ASCII85", "A85")):
            return base64.a85decode(text.removesuffix(b"~>"))
        return binascii.unhexlify(re.sub(rb"[\s>]", b"", text))
    except ValueError:
        return b""


def _check_external(head: bytes) -> None:
    for match in _EXTERNAL.finditer(head):
        before = head[: match.start()]
        if (
            before.count(b"<<") - before.count(b">>") == 1
        ):  # the stream's own key, not a font named F
            raise _active("external stream")


def _check_xref_stream(head: bytes, limits: Limits) -> None:
    """pyHanko makes one entry after another of no bytes at all, as many as the dictionary claims."""
    widths = _WIDTHS.search(head)
    if b"/XRef" not in head or not widths:
        return
    if not any(int(width) for width in widths[1].split()):
        raise malformed("its cross-reference stream has entries of no width")
    index = _INDEX.search(head)
    size = _SIZE.search(head)
    if index:
        entries = sum(int(count) for count in index[1].split()[1::2])
    else:
        entries = int(size[1]) if size else 0
    _check_objects(entries, limits)


def _packed_objects(head: bytes) -> int:
    count = re.search(rb"/N\s+(\d{1,9})", head)
    return int(count[1]) if count else 0


def _check_objects(objects: int, limits: Limits) -> None:
    if objects > limits.max_objects:
        raise _too_large(f"the document has more than {limits.max_objects} objects")


def _too_large(why: str) -> Refused:
    return Refused(
        "pdf-too-large",
        why,
        hint="Split or shrink it, or ask the operator to raise the class's limit.",
    )


def _active(what: str) -> Refused:
    return Refused(
        "pdf-active-content",
        f"the document contains active content ({what})",
        hint="Print it to a new PDF, which leaves scripts and actions out, and submit that.",
    )
