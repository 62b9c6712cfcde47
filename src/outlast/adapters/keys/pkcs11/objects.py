"""Public keys as a token keeps them, and making a pair."""

from __future__ import annotations

from typing import Any

from asn1crypto.core import OctetString
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pkcs11 import Attribute, KeyType, ObjectClass, Session
from pkcs11.exceptions import AttributeTypeInvalid
from pkcs11.util.ec import encode_named_curve_parameters

from outlast.adapters.keys.pkcs11.token import WorkSession
from outlast.core.asymmetric import MIN_RSA_BITS, spki_der
from outlast.core.errors import Refused
from outlast.ports.keys import Algorithm

_P256_OID = encode_named_curve_parameters("secp256r1")
# PrintableString "edwards25519", the form of PKCS#11 v3.0 section 2.3.10 that SoftHSM knows
_ED25519_NAME = bytes.fromhex("130c656477617264733235353139")
_ED25519_POINT_BYTES = 32
_KEY_ID_BYTES = 16


def spki_of(session: WorkSession, key_ref: str) -> bytes:
    """SubjectPublicKeyInfo (DER) of the pair. Raises Refused ``key-not-found``, ``key-unsupported``."""
    private = session.private_key(key_ref)
    try:
        if private.key_type == KeyType.RSA:
            return spki_der(_rsa(private))
        public = _public_beside(session, private)
        if private.key_type == KeyType.EC and public[Attribute.EC_PARAMS] == _P256_OID:
            point = _point(public)
            return spki_der(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
        if private.key_type == KeyType.EC_EDWARDS:
            return spki_der(ed25519.Ed25519PublicKey.from_public_bytes(_point(public)))
    except (ValueError, AttributeTypeInvalid) as error:
        raise _unsupported(key_ref, "its public half cannot be read") from error
    raise _unsupported(key_ref, f"it is of type {private.key_type!r}")


def generate_key_pair(session: Session, key_ref: str, algorithm: Algorithm) -> None:
    """A pair that stays in the token. Raises Refused ``key-exists``."""
    named = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: key_ref}
    if list(session.get_objects(named)):
        raise Refused("key-exists", f"the token has a key {key_ref!r} already")
    name: dict[str, Any] = {"store": True, "label": key_ref}
    name["id"] = session.generate_random(_KEY_ID_BYTES * 8)
    if algorithm == "rsa-pkcs1-sha256":
        session.generate_keypair(KeyType.RSA, MIN_RSA_BITS, **name)
        return
    kind, curve = (
        (KeyType.EC, _P256_OID)
        if algorithm == "ecdsa-p256-sha256"
        else (KeyType.EC_EDWARDS, _ED25519_NAME)
    )
    parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve}, local=True)
    parameters.generate_keypair(**name)


def _public_beside(session: WorkSession, private: Any) -> Any:
    """The public key object with the private key's CKA_ID, which PKCS#11 has pairs share."""
    found = list(
        session.session.get_objects(
            {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: private.id}
        )
    )
    if len(found) != 1:
        raise _unsupported(private.label, "its public key is not in the token beside it")
    return found[0]


def _rsa(private: Any) -> rsa.RSAPublicKey:
    modulus = int.from_bytes(private[Attribute.MODULUS], "big")
    exponent = int.from_bytes(private[Attribute.PUBLIC_EXPONENT], "big")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _point(public: Any) -> bytes:
    """CKA_EC_POINT: a DER OCTET STRING, but bare 32 bytes for Ed25519 in some tokens."""
    value = bytes(public[Attribute.EC_POINT])
    if len(value) == _ED25519_POINT_BYTES:
        return value
    return bytes(OctetString.load(value, strict=True).native)


def _unsupported(key_ref: str, why: str) -> Refused:
    return Refused(
        "key-unsupported",
        f"key {key_ref!r} cannot be used: {why}",
        hint="Use RSA of at least 3072 bits, ECDSA on P-256 or Ed25519, with its public key object.",
    )
