"""Reading and extending a finished CMS SignedData with one signer: its signature value and its timestamps.

Guarantees: extending changes unsigned attributes only; every other byte of the signer's statement stays as it
was. Refuses (``cms-malformed``) what is not DER or has not exactly one signer.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from outlast.signing.cms import der
from outlast.signing.cms.template import OID_TIMESTAMP_TOKEN


class _SignerInfo(msgspec.Struct, frozen=True):
    """The layers down to the signer: ``path`` from ContentInfo to SignerInfo, and the parts of the latter."""

    path: tuple[der.Element, ...]
    signed: der.Element
    signature: der.Element
    unsigned: der.Element | None


def signature_value(cms_der: bytes) -> bytes:
    """The signer's signature value."""
    return _signer(cms_der).signature.value


def signed_statement(cms_der: bytes) -> tuple[bytes, bytes]:
    """The signed attributes as the SET OF that was signed, and the signature value."""
    signer = _signer(cms_der)
    return b"\x31" + signer.signed.whole[1:], signer.signature.value


def timestamp_imprint(cms_der: bytes) -> bytes:
    """What a signature timestamp stamps: SHA-256 of the signature value (EN 319 122-1, 5.3)."""
    return sha256(signature_value(cms_der)).digest()


def timestamp_tokens(cms_der: bytes) -> tuple[bytes, ...]:
    """The TimeStampTokens (DER) carried as unsigned attributes."""
    unsigned = _signer(cms_der).unsigned
    found = []
    for attribute in unsigned.children() if unsigned else ():
        oid, values = _parts(attribute, 2, "an attribute")
        if oid.whole == OID_TIMESTAMP_TOKEN:
            found += [value.whole for value in values.children()]
    return tuple(found)


def add_timestamp(cms_der: bytes, token_der: bytes) -> bytes:
    """The structure with one more id-aa-timeStampToken attribute (EN 319 122-1, 5.3: B-T).

    ``token_der`` is the bare TimeStampToken (a ContentInfo), not the TimeStampResp around it.
    """
    signer = _signer(cms_der)
    der.expect(der.read(token_der), der.SEQUENCE, "the timestamp token")
    existing = tuple(a.whole for a in signer.unsigned.children()) if signer.unsigned else ()
    added = der.tlv(der.SEQUENCE, OID_TIMESTAMP_TOKEN, der.tlv(der.SET, token_der))
    info = signer.path[-1]
    rebuilt = der.tlv(
        info.tag,
        cms_der[info.body : signer.signature.end],
        der.set_of((*existing, added), der.CONTEXT_1),
    )
    inner = info
    for outer in reversed(signer.path[:-1]):
        rebuilt = der.tlv(
            outer.tag, cms_der[outer.body : inner.start], rebuilt, cms_der[inner.end : outer.end]
        )
        inner = outer
    return rebuilt


def _signer(cms_der: bytes) -> _SignerInfo:
    content_info = der.expect(der.read(cms_der), der.SEQUENCE, "ContentInfo")
    _, explicit = _parts(content_info, 2, "ContentInfo")
    der.expect(explicit, der.CONTEXT_0, "content")
    (signed_data,) = _parts(explicit, 1, "content")
    infos = list(signed_data.children())[-1:]
    if not infos:
        raise der.malformed("SignedData is empty")
    (info,) = _parts(der.expect(infos[0], der.SET, "signerInfos"), 1, "signerInfos")
    parts = list(info.children())
    if not 6 <= len(parts) <= 7:
        raise der.malformed("a SignerInfo with signed attributes has 6 or 7 parts")
    signed = der.expect(parts[3], der.CONTEXT_0, "signedAttrs")
    signature = der.expect(parts[5], der.OCTET_STRING, "signature")
    unsigned = der.expect(parts[6], der.CONTEXT_1, "unsignedAttrs") if len(parts) == 7 else None
    path = (content_info, explicit, signed_data, infos[0], info)
    return _SignerInfo(path, signed, signature, unsigned)


def _parts(element: der.Element, count: int, what: str) -> list[der.Element]:
    parts = list(element.children())
    if len(parts) != count:
        raise der.malformed(f"{what} has {len(parts)} parts, not {count}")
    return parts
