"""Small PDFs made to order, and a signer that takes one through the whole path in memory. For tests.

`build_pdf` writes what it is given, right or wrong: hostile files are made with it as well as good ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import msgspec

from outlast.core.asymmetric import (
    KeyAlgorithm,
    PrivateKey,
    generate_private_key,
    sign_bytes,
    spki_der,
)
from outlast.core.clock import Clock
from outlast.core.pki import Authority, certificate_der, issue, make_ca
from outlast.ports.keys import KeyInfo
from outlast.signing.cms import CmsTemplate, verify_signature
from outlast.signing.pdf.revision import Filled, Prepared, assemble, fill
from outlast.signing.pdf.slots import SignatureFields

HEADER = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"


def build_pdf(objects: Mapping[int, bytes], *, trailer: bytes = b"", root: int = 1) -> bytes:
    """A PDF with a classic cross-reference table. ``objects``: number to body, numbered from 1 without gaps.
    ``trailer``: further trailer entries."""
    out = bytearray(HEADER)
    offsets = []
    for number in sorted(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(out)
    size = len(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root %d 0 R %s >>\n" % (size, root, trailer)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def build_pdf_with_streams(
    plain: Mapping[int, bytes], packed: Mapping[int, bytes], *, root: int = 1
) -> bytes:
    """A PDF 1.5 with ``packed`` objects in one compressed object stream and a cross-reference stream. Numbers
    of both together run from 1 without gaps."""
    out = bytearray(HEADER)
    entries: dict[int, tuple[int, int, int]] = {0: (0, 0, 65535)}
    for number in sorted(plain):
        entries[number] = (1, len(out), 0)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, plain[number])
    container = max([*plain, *packed]) + 1
    entries[container] = (1, len(out), 0)
    index, bodies = b"", b""
    for position, number in enumerate(sorted(packed)):
        entries[number] = (2, container, position)
        index += b"%d %d " % (number, len(bodies))
        bodies += packed[number] + b"\n"
    dictionary = b"/Type /ObjStm /N %d /First %d" % (len(packed), len(index))
    out += b"%d 0 obj\n%s\nendobj\n" % (container, flate(index + bodies, dictionary))
    entries[container + 1] = (1, len(out), 0)
    start = len(out)
    rows = b"".join(
        bytes((kind,)) + where.to_bytes(4, "big") + extra.to_bytes(2, "big")
        for kind, where, extra in (entries[n] for n in sorted(entries))
    )
    dictionary = b"/Type /XRef /W [1 4 2] /Size %d /Root %d 0 R" % (container + 2, root)
    out += b"%d 0 obj\n%s\nendobj\n" % (container + 1, flate(rows, dictionary))
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def flate(data: bytes, dictionary: bytes = b"", *, layers: int = 1) -> bytes:
    """A stream object's body, deflated ``layers`` times over."""
    for _ in range(layers):
        data = zlib.compress(data, 9)
    filters = b"[" + b" /FlateDecode" * layers + b" ]"
    return b"<< %s /Filter %s /Length %d >>\nstream\n%s\nendstream" % (
        dictionary,
        filters,
        len(data),
        data,
    )


def page_objects(
    pages: int = 1, *, catalog: bytes = b"", page: bytes = b"", content: bytes = b"Hello"
) -> dict[int, bytes]:
    """The objects of a plain document: 1 the catalog, 2 the page tree, 3 a font, then two for each page.
    ``catalog`` and ``page``: further entries of the catalog and of each page."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(pages))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        2: b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, pages),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    }
    for i in range(pages):
        objects[4 + 2 * i] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> %s >>" % (5 + 2 * i, page)
        )
        objects[5 + 2 * i] = flate(b"BT /F1 12 Tf 72 720 Td (%s %d) Tj ET" % (content, i + 1))
    return objects


def plain_pdf(pages: int = 1) -> bytes:
    """A good document of so many pages."""
    return build_pdf(page_objects(pages))


class LocalSigner(msgspec.Struct, frozen=True, kw_only=True):
    """A key, the chain of its certificate (signing certificate first, root last), and how to sign with them."""

    algorithm: KeyAlgorithm
    key: PrivateKey
    chain_der: tuple[bytes, ...]
    authority: Authority

    @classmethod
    def make(cls, algorithm: KeyAlgorithm, clock: Clock, name: str = "Test signer") -> LocalSigner:
        """One with a fresh key and a fresh authority."""
        key = generate_private_key(algorithm)
        ca = make_ca(f"Root of {name}", algorithm, clock)
        leaf = issue(ca, f"{name} {algorithm}", spki_der(key), "document-signing", clock)
        chain = (certificate_der(leaf), ca.certificate_der)
        return cls(algorithm=algorithm, key=key, chain_der=chain, authority=ca)

    @property
    def key_info(self) -> KeyInfo:
        """As a provider would describe the key."""
        return KeyInfo(key_ref="test", algorithm=self.algorithm, spki_der=spki_der(self.key))

    @property
    def roots_der(self) -> Sequence[bytes]:
        """What a verifier must trust."""
        return (self.authority.certificate_der,)

    def cms(self, digest: bytes, token: bytes | None = None) -> bytes:
        """A PAdES CMS over a digest of the document."""
        template = CmsTemplate.for_certificate(self.chain_der, self.algorithm)
        tbs = template.signed_attributes(digest)
        signature = sign_bytes(self.key, tbs)
        verify_signature(spki_der(self.key), self.algorithm, tbs, signature)
        return template.finish(tbs, signature, token)

    def detached(self, digest: bytes, signing_time_ms: int) -> bytes:
        """A detached CMS over a digest of a file."""
        template = CmsTemplate.for_certificate(self.chain_der, self.algorithm, "detached")
        tbs = template.signed_attributes(digest, signing_time_ms)
        return template.finish(tbs, sign_bytes(self.key, tbs))

    def sign(
        self, original: bytes, prepared: Prepared, fields: SignatureFields | None
    ) -> tuple[bytes, Filled]:
        """The signed document, and the filled revision it ends with."""
        filled = fill(original, prepared, fields, self.algorithm)
        return assemble(original, filled, self.cms(filled.digest)), filled
