"""The one signer of a CMS SignedData: its certificate, its signed attributes, its signature (RFC 5652, RFC 5035).

Accepts RSA (PKCS #1 v1.5, PSS) of 2048 to 8192 bits, ECDSA on P-256 and P-384, and Ed25519, with SHA-256, SHA-384 or
SHA-512, and refuses everything else. Works on what asn1crypto has parsed, lazily: besides SignerError any function may
raise what a parser raises on malformed bytes, and the caller treats both alike.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import msgspec
from asn1crypto import algos, cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.der import SEQUENCE, elements, tlv

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
DIGESTS: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
CURVES = frozenset({"secp256r1", "secp384r1"})


MAX_CERTIFICATES = 16
"""Most certificates in a token."""

_MAX_FIELDS = 8
_SIGNED_ATTRIBUTES = _CERTIFICATES = 0xA0


class SignerError(Exception):
    """What is wrong with the signature, for people."""


class RawSignedData(msgspec.Struct, frozen=True):
    """Parts of a SignedData exactly as they came: X.509 certificates, and the contents of the signed attributes."""

    certificates: tuple[bytes, ...]
    attributes: bytes


def raw_signed_data(token_der: bytes) -> RawSignedData:
    """Cut them out of a ContentInfo. Raises ValueError, IndexError or SignerError."""
    (outer,) = elements(token_der, 1)
    (explicit,) = elements(elements(outer.contents, 2)[1].contents, 1)
    fields = elements(explicit.contents, _MAX_FIELDS)
    carried: list[bytes] = []
    for field in fields:
        if field.identifier == _CERTIFICATES:
            choices = elements(field.contents, MAX_CERTIFICATES)
            carried += [choice.raw for choice in choices if choice.identifier == SEQUENCE]
    (signer,) = elements(fields[-1].contents, 1)
    for field in elements(signer.contents, _MAX_FIELDS):
        if field.identifier == _SIGNED_ATTRIBUTES:
            return RawSignedData(tuple(carried), field.contents)
    raise SignerError("it has no signed attributes")


def only_signer(signed: cms.SignedData) -> cms.SignerInfo:
    """The SignerInfo, if there is exactly one and it is well-formed; raises SignerError."""
    if len(signed["signer_infos"]) != 1:
        raise SignerError(f"it has {len(signed['signer_infos'])} signers, not one")
    signer = signed["signer_infos"][0]
    # RFC 5652 section 5.3; and other verifiers look for the digest in the outer list first
    if int(signer["version"]) != (1 if signer["sid"].name == "issuer_and_serial_number" else 3):
        raise SignerError("the signer's version does not fit how it is named")
    algorithm = signer["digest_algorithm"]
    if algorithm["parameters"].native is not None:
        raise SignerError("the signer's digest algorithm has parameters")
    names = [listed["algorithm"].native for listed in signed["digest_algorithms"]]
    if algorithm["algorithm"].native not in names:
        raise SignerError("the signer's digest algorithm is not among those listed")
    return signer


def signers_certificate(
    signer: cms.SignerInfo, certificates: Iterable[x509.Certificate]
) -> x509.Certificate:
    """The certificate that the signer identifier means, among those given."""
    sid = signer["sid"]
    for certificate in certificates:
        if sid.name == "issuer_and_serial_number":
            parsed = parse_certificate(certificate)
            named = sid.chosen
            if parsed.serial_number == named["serial_number"].native and (
                parsed.issuer.dump() == named["issuer"].dump()
            ):
                return certificate
        elif _subject_key_id(certificate) == bytes(sid.chosen):
            return certificate
    raise SignerError("the signer's certificate is missing")


def _subject_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return found.value.digest


def signed_attributes(signer: cms.SignerInfo) -> dict[str, core.Asn1Value]:
    """Single-valued attributes by type. None may come twice (RFC 5652 section 11)."""
    attributes: dict[str, core.Asn1Value] = {}
    for attribute in signer["signed_attrs"]:
        kind = attribute["type"].native
        if kind in attributes or len(attribute["values"]) != 1:
            raise SignerError("a signed attribute comes more than once")
        attributes[kind] = attribute["values"][0]
    return attributes


def check_content(
    signer: cms.SignerInfo, attributes: dict[str, core.Asn1Value], content: bytes
) -> None:
    """RFC 5652 section 11.1 and 11.2: the attributes are about this content and call it TSTInfo."""
    digest_name = signer["digest_algorithm"]["algorithm"].native
    if digest_name not in DIGESTS:
        raise SignerError(
            f"the signature's digest algorithm {str(digest_name)[:40]} is not accepted"
        )
    if "content_type" not in attributes or attributes["content_type"].native != "tst_info":
        raise SignerError("the signed content type is not TSTInfo")
    expected = hashlib.new(digest_name, content).digest()
    if "message_digest" not in attributes or not hmac.compare_digest(
        bytes(attributes["message_digest"]), expected
    ):
        raise SignerError("the signed digest is not that of the content")


def check_binding(attributes: dict[str, core.Asn1Value], leaf: x509.Certificate) -> None:
    """RFC 5035: the first certificate named is the signer's. Both attributes must agree where both are there."""
    bindings = [
        attributes[kind]["certs"][0]
        for kind in ("signing_certificate", "signing_certificate_v2")
        if kind in attributes
    ]
    if not bindings:
        raise SignerError("no signing-certificate attribute binds the certificate")
    parsed = parse_certificate(leaf)
    for named in bindings:
        # version 1 has no choice but SHA-1; the signature over the attributes is what protects it
        name = named["hash_algorithm"]["algorithm"].native if "hash_algorithm" in named else "sha1"
        if name not in DIGESTS and name != "sha1":
            raise SignerError("the signing-certificate attribute uses an unknown digest algorithm")
        digest = hashlib.new(name, certificate_der(leaf)).digest()
        if not hmac.compare_digest(bytes(named["cert_hash"]), digest):
            raise SignerError("the signing-certificate attribute names another certificate")
        issuer_serial = named["issuer_serial"]
        if (
            not isinstance(issuer_serial, core.Void)
            and issuer_serial["serial_number"].native != parsed.serial_number
        ):
            raise SignerError("the signing-certificate attribute names another serial number")


def check_signature(signer: cms.SignerInfo, attributes: bytes, leaf: x509.Certificate) -> None:
    """The signature over ``attributes`` (see RawSignedData) is by the certificate's key."""
    signed = tlv(0x31, attributes)  # RFC 5652 section 5.4: as a SET OF, whatever tag carries them
    signature = bytes(signer["signature"])
    key = leaf.public_key()
    algorithm = signer["signature_algorithm"]
    kind = algorithm.signature_algo
    try:
        if isinstance(key, rsa.RSAPublicKey) and kind in {"rsassa_pkcs1v15", "rsassa_pss"}:
            if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                raise SignerError(f"the signer's RSA key of {key.key_size} bits is not accepted")
            key.verify(signature, signed, _rsa_padding(algorithm, kind), _hash(signer, algorithm))
        elif isinstance(key, ec.EllipticCurvePublicKey) and kind == "ecdsa":
            if key.curve.name not in CURVES:
                raise SignerError(f"the signer's curve {key.curve.name} is not accepted")
            key.verify(signature, signed, ec.ECDSA(_hash(signer, algorithm)))
        elif isinstance(key, ed25519.Ed25519PublicKey) and kind == "ed25519":
            key.verify(signature, signed)
        else:
            raise SignerError("the signature algorithm does not fit the signer's key")
    except InvalidSignature:
        raise SignerError("the signature does not verify") from None


def _hash(signer: cms.SignerInfo, algorithm: algos.SignedDigestAlgorithm) -> hashes.HashAlgorithm:
    """The signature's hash, which must be the one that the signer names for the content as well."""
    named = signer["digest_algorithm"]["algorithm"].native
    plain_rsa = algorithm["algorithm"].native == "rsassa_pkcs1v15"  # rsaEncryption: names no hash
    if not plain_rsa and algorithm.hash_algo != named:
        raise SignerError("the signature and its attributes use different digest algorithms")
    return DIGESTS[named]()


def _rsa_padding(
    algorithm: algos.SignedDigestAlgorithm, kind: str
) -> padding.PKCS1v15 | padding.PSS:
    if kind == "rsassa_pkcs1v15":
        return padding.PKCS1v15()
    parameters = algorithm["parameters"]
    mask = parameters["mask_gen_algorithm"]
    mask_hash = mask["parameters"]["algorithm"].native
    if mask["algorithm"].native != "mgf1" or mask_hash != algorithm.hash_algo:
        raise SignerError("the signature's PSS parameters are not accepted")
    digest = DIGESTS[mask_hash]()
    if parameters["salt_length"].native != digest.digest_size:
        raise SignerError("the signature's PSS salt is not as long as its digest")
    return padding.PSS(padding.MGF1(digest), digest.digest_size)


def certificate_der(certificate: x509.Certificate) -> bytes:
    """DER of a certificate, byte for byte as it was read."""
    return certificate.public_bytes(Encoding.DER)


def parse_certificate(certificate: x509.Certificate) -> asn1_x509.Certificate:
    """The same certificate as asn1crypto sees it, to compare names and numbers with CMS fields."""
    return asn1_x509.Certificate.load(certificate_der(certificate))
