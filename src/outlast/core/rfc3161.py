"""Time-stamp requests, and every check on what comes back (RFC 3161, RFC 5816; CMS per RFC 5652).

Promises: ``verify_response`` and ``verify_token`` return only when all of this holds, and raise Refused
``tsa-bad-token`` (with what was wrong) or ``tsa-rejected`` otherwise, whatever the bytes:

- the response grants a token; the token is SignedData over id-ct-TSTInfo, version 1, by one signer
- the signer's certificate, bound by the signing-certificate attribute (v1 or v2), may stamp time and nothing else,
  and leads to a pinned root by certificates valid at the token's time
- the signed attributes are over this content and signed by that certificate's key
- imprint, nonce and policy are those asked for; the time is within ``max_skew_ms`` of our clock

An authority that says it is out of order for now (timeNotAvailable, systemFailure) is Unavailable ``tsa-unavailable``.
Leaves to others: asking (adapters), revocation of the authority's certificate, whether it is qualified.
"""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime

import msgspec
from asn1crypto import cms, core, tsp
from cryptography import x509

from outlast.core.certpath import PathError, find_path, load_certificate
from outlast.core.der import SEQUENCE, elements
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.signerinfo import (
    SignerError,
    certificate_der,
    check_binding,
    check_content,
    check_signature,
    only_signer,
    parse_certificate,
    raw_signed_data,
    signed_attributes,
    signers_certificate,
)

MAX_RESPONSE_BYTES = 64 * 1024
"""Largest response looked at. Tokens with a chain of three RSA-4096 certificates have about 8 KiB."""

MAX_SERIAL_BITS = 168
"""RFC 3161 section 2.4.2 asks for serial numbers of up to 160 bits to be accepted; a sign octet may come on top."""

MAX_STATUS_TEXT = 200
"""Most characters of an authority's own words that are passed on."""

DEFAULT_MAX_SKEW_MS = 60_000
"""How far a fresh token's time may be from our clock."""

NONCE_BYTES = 8
DIGEST_BYTES = 32

_GEN_TIME = re.compile(rb"(\d{14})(?:\.(\d{0,8}[1-9]))?Z")
_GRANTED = frozenset({0, 1})
_OUT_OF_ORDER = frozenset({"time_not_available", "system_failure"})


class TsaRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is trusted of one authority. ``roots``: the pinned DER certificates, roots or its very own. ``intermediates``: more
    DER certificates a path may use. ``policies``: accepted policy OIDs, None for any."""

    roots: tuple[bytes, ...]
    intermediates: tuple[bytes, ...] = ()
    policies: frozenset[str] | None = None
    max_skew_ms: int = DEFAULT_MAX_SKEW_MS


class VerifiedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that passed. ``der`` is the TimeStampToken; ``response_der`` is empty where only a token was given.

    ``gen_time_ms``: Unix milliseconds. ``accuracy_us``: the authority's own bound, None where it states none.
    ``ordering``: whether it promises that its tokens' times alone put them in order. ``path``: DER certificates from
    the authority's own to the pinned one.
    """

    der: bytes
    response_der: bytes
    gen_time_ms: int
    serial: int
    policy_oid: str
    accuracy_us: int | None
    ordering: bool
    path: tuple[bytes, ...]


class _Bad(Exception):
    """What is wrong with a token, for people."""


def build_request(digest: bytes, nonce: int, policy_oid: str | None = None) -> bytes:
    """A TimeStampReq (DER) over a SHA-256 digest, asking for the authority's certificate."""
    if len(digest) != DIGEST_BYTES:
        raise ValueError("a time stamp is asked for over a SHA-256 digest of 32 bytes")
    fields: dict[str, object] = {
        "version": 1,
        "message_imprint": {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": digest},
        "nonce": nonce,
        "cert_req": True,
    }
    if policy_oid is not None:
        fields["req_policy"] = policy_oid
    der: bytes = tsp.TimeStampReq(fields).dump()
    return der


def verify_response(
    response_der: bytes, digest: bytes, nonce: int, rules: TsaRules, now_ms: int
) -> VerifiedToken:
    """Check a TimeStampResp just received for ``build_request(digest, nonce, …)``. See the module for errors."""
    try:
        token_der = _granted_token(response_der)
        token = _verify(token_der, digest, rules, nonce)
        skew_ms = token.gen_time_ms - now_ms
        if abs(skew_ms) > rules.max_skew_ms:
            raise _Bad(f"its time is {skew_ms} ms from this site's clock")
    except (
        Exception
    ) as error:  # parsers of hostile bytes raise what they like; here it has one meaning
        raise _translated(error) from error
    return msgspec.structs.replace(token, response_der=response_der)


def verify_token(token_der: bytes, digest: bytes, rules: TsaRules) -> VerifiedToken:
    """Check a stored TimeStampToken, offline and at any time later. See the module for errors."""
    try:
        return _verify(token_der, digest, rules, None)
    except Exception as error:  # as above
        raise _translated(error) from error


def _translated(error: Exception) -> OutlastError:
    if isinstance(error, OutlastError):
        return error
    if isinstance(error, _Bad | PathError | SignerError):
        return bad_token(str(error))
    return bad_token(f"it is malformed ({type(error).__name__})")


def bad_token(reason: str) -> Refused:
    """The error for a token or response that must not be used; another authority may give a good one."""
    return Refused(
        "tsa-bad-token",
        f"the time stamp is not acceptable: {reason}",
        hint="Compare the authority's certificate and policy with its configuration here.",
        retry="elsewhere",
    )


def rejected(reason: str) -> Refused:
    """The error for an authority that does not want the request; another authority may."""
    return Refused(
        "tsa-rejected",
        f"the authority refuses the request: {reason}",
        hint="Compare the requested policy and digest algorithm with what the authority offers.",
        retry="elsewhere",
    )


def _granted_token(response_der: bytes) -> bytes:
    """The TimeStampToken inside a response that grants one."""
    if len(response_der) > MAX_RESPONSE_BYTES:
        raise _Bad(f"the response has more than {MAX_RESPONSE_BYTES} bytes")
    # by hand: asn1crypto's TimeStampResp insists on a token, which a rejection does not have
    (outer,) = elements(response_der, 1)
    parts = elements(outer.contents, 2)
    if outer.identifier != SEQUENCE:
        raise _Bad("the response is not a SEQUENCE")
    status = tsp.PKIStatusInfo.load(parts[0].raw, strict=True)
    if int(status["status"]) not in _GRANTED:
        raise _rejection(status)
    if len(parts) != 2:
        raise _Bad("the response grants a token and has none")
    return parts[1].raw


def _rejection(status: tsp.PKIStatusInfo) -> OutlastError:
    reasons: frozenset[str] = frozenset(map(str, status["fail_info"].native or ()))
    texts = [str(text) for text in status["status_string"].native or ()]
    words = "".join(c if c.isprintable() else " " for c in "; ".join(texts))[:MAX_STATUS_TEXT]
    reason = " ".join(part for part in (*sorted(reasons), words) if part) or "no reason given"
    if reasons & _OUT_OF_ORDER:
        return Unavailable("tsa-unavailable", f"the authority is out of order: {reason}")
    return rejected(reason)


def _verify(token_der: bytes, digest: bytes, rules: TsaRules, nonce: int | None) -> VerifiedToken:
    if len(token_der) > MAX_RESPONSE_BYTES:
        raise _Bad(f"the token has more than {MAX_RESPONSE_BYTES} bytes")
    signed, content, info = _signed_content(token_der)
    gen_time_ms = _gen_time_ms(info["gen_time"].contents)
    _check_info(info, digest, rules, nonce)
    signer = only_signer(signed)
    raw = raw_signed_data(token_der)
    known = dict.fromkeys((*raw.certificates, *rules.roots, *rules.intermediates))
    certificates = [load_certificate(der) for der in known]
    leaf = signers_certificate(signer, certificates)
    attributes = signed_attributes(signer)
    check_content(signer, attributes, content)
    check_binding(attributes, leaf)
    path = find_path(
        leaf,
        [load_certificate(der) for der in rules.roots],
        certificates,
        datetime.fromtimestamp(gen_time_ms / 1000, tz=UTC),
    )
    check_signature(signer, raw.attributes, leaf)
    _check_tsa_name(info, leaf)
    return VerifiedToken(
        der=token_der,
        response_der=b"",
        gen_time_ms=gen_time_ms,
        serial=_serial(info),
        policy_oid=info["policy"].dotted,
        accuracy_us=_accuracy_us(info["accuracy"]),
        ordering=info["ordering"].native,
        path=tuple(certificate_der(certificate) for certificate in path),
    )


def _signed_content(token_der: bytes) -> tuple[cms.SignedData, bytes, tsp.TSTInfo]:
    """SignedData, the bytes it is over, and those bytes as TSTInfo."""
    outer = cms.ContentInfo.load(token_der, strict=True)
    if outer["content_type"].native != "signed_data":
        raise _Bad("the token is not CMS SignedData")
    signed = outer["content"]
    if int(signed["version"]) != 3:
        raise _Bad(
            "SignedData is not of version 3"
        )  # RFC 5652 section 5.1, for content that is not id-data
    encapsulated = signed["encap_content_info"]
    if encapsulated["content_type"].native != "tst_info":
        raise _Bad("the signed content is not TSTInfo")
    content = bytes(encapsulated["content"])
    info = tsp.TSTInfo.load(content, strict=True)
    if int(info["version"]) != 1:
        raise _Bad("TSTInfo is not of version 1")
    return signed, content, info


def _check_info(info: tsp.TSTInfo, digest: bytes, rules: TsaRules, nonce: int | None) -> None:
    imprint = info["message_imprint"]
    if imprint["hash_algorithm"]["algorithm"].native != "sha256":
        raise _Bad("it is over another digest algorithm")
    if imprint["hash_algorithm"]["parameters"].native is not None:
        raise _Bad("its digest algorithm has parameters")
    if not hmac.compare_digest(bytes(imprint["hashed_message"]), digest):
        raise _Bad("it is over another digest")
    if nonce is not None and info["nonce"].native != nonce:
        raise _Bad("its nonce is not ours")
    policy = info["policy"].dotted
    if rules.policies is not None and policy not in rules.policies:
        raise _Bad(f"its policy {policy[:64]} is not accepted")
    for extension in info["extensions"]:
        if extension["critical"].native:
            raise _Bad("it has a critical extension that is not understood")


def _check_tsa_name(info: tsp.TSTInfo, leaf: x509.Certificate) -> None:
    """RFC 3161 section 2.4.2: where the token names its authority, it is one of the certificate's names."""
    name = info["tsa"]
    if isinstance(name, core.Void) or name.name != "directory_name":
        return
    if name.chosen != parse_certificate(leaf).subject:
        raise _Bad("it names another authority than its certificate does")


def _gen_time_ms(text: bytes) -> int:
    """RFC 3161 section 2.4.2: UTC, seconds always, a fraction without trailing zeros."""
    match = _GEN_TIME.fullmatch(text)
    if match is None:
        raise _Bad("its time is not in the form RFC 3161 prescribes")
    moment = datetime.strptime(match[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000 + int(((match[2] or b"") + b"000")[:3])


def _serial(info: tsp.TSTInfo) -> int:
    serial: int = info["serial_number"].native
    if serial.bit_length() > MAX_SERIAL_BITS:
        raise _Bad("its serial number is too long")
    return serial


def _accuracy_us(accuracy: tsp.Accuracy) -> int | None:
    if isinstance(accuracy, core.Void):
        return None
    seconds, millis, micros = (
        accuracy[part].native or 0 for part in ("seconds", "millis", "micros")
    )
    if not (0 <= seconds < 1 << 31 and 0 <= millis <= 999 and 0 <= micros <= 999):
        raise _Bad("its accuracy is out of bounds")
    return int(seconds * 1_000_000 + millis * 1000 + micros)
