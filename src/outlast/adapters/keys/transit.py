"""Signing with keys that HashiCorp Vault or OpenBao keeps, through their Transit secrets engine.

Talks to the HTTP API directly (`adapters.exchange`), without hvac: hvac is synchronous, so every signature would cost a
thread; it has no bound on an answer's size; and of Transit it would save two URLs. See docs/adr/0003.

Guarantees: a key is always one *version* of a Transit key, written ``name:version``, so that rotation in the vault never
changes the key under an enrolled certificate; what is signed is what was asked, in the encoding CMS wants. The three
traps: RSA needs ``signature_algorithm=pkcs1v15`` (the default is PSS), ECDSA ``marshaling_algorithm=asn1``, and
``prehashed`` with Ed25519 would silently sign the digest as if it were the message, so Ed25519 gets the bytes
themselves.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import ssl
from collections.abc import Callable
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from outlast.adapters.exchange import Exchange, ExchangeLimits, Reply, checked_base
from outlast.core.asymmetric import algorithm_of, as_public_key, load_public_key, spki_der
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.ports.keys import KeyInfo, SignRequest
from outlast.ports.keys_checks import (
    check_algorithm,
    check_tbs,
    credentials_refused,
    key_not_found,
)

TokenSource = Callable[[], str]
"""Asked before every call, so that a token can be renewed or replaced while the adapter lives. Must not block."""

MAX_KNOWN_KEYS = 1024
"""Descriptions remembered; a version of a key never changes. Beyond, the oldest is asked for again."""

_KEY_REF = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,127}):([1-9][0-9]{0,8})")
_MOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}")
_SIGNATURE = re.compile(r"vault:v([0-9]{1,9}):([A-Za-z0-9+/=]{1,2048})")

# A performance standby forwards signing, so it is well; see the health API's documentation of these parameters.
_HEALTH_PATH = "/v1/sys/health?standbyok=true&perfstandbyok=true"

_Answer = TypeVar("_Answer")


class _SignInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    input: str
    key_version: int
    prehashed: bool = False
    hash_algorithm: str = ""
    signature_algorithm: str = ""
    marshaling_algorithm: str = ""


class _SignData(msgspec.Struct, frozen=True):
    signature: str


class _SignAnswer(msgspec.Struct, frozen=True):
    data: _SignData


class _KeyVersion(msgspec.Struct, frozen=True):
    public_key: str


class _KeyData(msgspec.Struct, frozen=True):
    keys: dict[str, _KeyVersion | int]
    """By version. A bare number is a symmetric key's creation time."""
    type: str
    derived: bool = False
    supports_signing: bool = False


class _KeyAnswer(msgspec.Struct, frozen=True):
    data: _KeyData


class _ErrorAnswer(msgspec.Struct, frozen=True):
    errors: list[str] = []


class TransitSigner:
    """A ``Signer`` over the Transit engine mounted at ``mount``.

    ``base_url`` is scheme, host and port. ``token`` is a token or a `TokenSource`. Errors: Refused
    ``key-not-found``, ``key-ref-invalid``, ``key-algorithm-mismatch``, ``key-unsupported``, ``tbs-too-large``,
    ``credentials-refused`` (the vault answers the same to a bad token and to a policy that forbids the path),
    ``request-refused``; Unavailable ``provider-sealed``, ``provider-throttled``, ``provider-standby`` and as
    `adapters.exchange`; Unknown for any other answer that is none.
    """

    def __init__(
        self,
        base_url: str,
        token: str | TokenSource,
        *,
        mount: str = "transit",
        namespace: str = "",
        name: str = "transit",
        ssl_context: ssl.SSLContext | None = None,
        limits: ExchangeLimits | None = None,
    ) -> None:
        if not _MOUNT.fullmatch(mount) or ".." in mount:
            raise Refused("config-invalid", f"{mount[:200]!r} is no mount path")
        self._mount = mount.strip("/")
        self._namespace = namespace
        self._token = token
        self._name = name
        base_url = checked_base(base_url, name, plain_on_loopback=True)
        self._exchange = Exchange(base_url, scope=name, ssl_context=ssl_context, limits=limits)
        self._known: dict[str, KeyInfo] = {}

    async def sign(self, request: SignRequest) -> bytes:
        """The vault's signature; the first for a key also asks for its description."""
        check_tbs(request)
        key, version = _parse_ref(request.key_ref)
        check_algorithm(request, await self.describe(request.key_ref))
        reply = await self._call(
            "POST",
            f"/v1/{self._mount}/sign/{key}",
            body=msgspec.json.encode(_sign_input(request, version)),
        )
        answer = self._decode(reply, _SignAnswer)
        return self._signature(answer.data.signature, version)

    async def describe(self, key_ref: str) -> KeyInfo:
        """Public half of a key version. Raises Refused ``key-not-found``."""
        known = self._known.get(key_ref)
        if known is not None:
            return known
        key, version = _parse_ref(key_ref)
        reply = await self._call("GET", f"/v1/{self._mount}/keys/{key}")
        if reply.status == 404:
            raise key_not_found(key_ref)
        data = self._decode(reply, _KeyAnswer).data
        info = self._info(key_ref, version, data)
        if len(self._known) >= MAX_KNOWN_KEYS:
            self._known.pop(next(iter(self._known)))
        self._known[key_ref] = info
        return info

    async def check(self) -> None:
        """Returns when the vault is unsealed and answers; raises Unavailable otherwise."""
        reply = await self._exchange.call("GET", _HEALTH_PATH, effect=False)
        if reply.status != 200:
            raise Unavailable(
                "provider-sealed" if reply.status == 503 else "provider-unreachable",
                f"the vault says of its own health: HTTP {reply.status}",
                scope=self._name,
            )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._exchange.aclose()

    async def _call(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """An answer of status 200, or 404 to a GET; everything else is raised."""
        token = self._token if isinstance(self._token, str) else self._token()
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        effect = method == "POST"
        reply = await self._exchange.call(method, path, effect=effect, body=body, headers=headers)
        if reply.status == 200 or (reply.status == 404 and not effect):
            return reply
        raise self._failure(reply, effect=effect)

    def _failure(self, reply: Reply, *, effect: bool) -> OutlastError:
        """What a status other than 200 means (Vault API documentation, "HTTP status codes")."""
        status, said = reply.status, _errors(reply)
        if status == 403:
            return credentials_refused(
                "the vault refuses the token, or its policy does not reach this key",
                hint=f"Allow update on {self._mount}/sign/* and read on {self._mount}/keys/*.",
            )
        if status == 429:
            return self._unavailable("provider-throttled", "the vault limits our rate", reply)
        if status == 503:
            return self._unavailable("provider-sealed", said or "the vault is sealed", reply)
        if status in {307, 412, 472, 473}:
            return self._unavailable("provider-standby", f"a standby answered: {said}", reply)
        if 400 <= status < 500:
            return Refused("request-refused", f"HTTP {status}: {said}", scope=self._name)
        kind = Unknown if effect else Unavailable
        return kind("provider-bad-answer", f"HTTP {status}: {said}", scope=self._name)

    def _unavailable(self, code: str, message: str, reply: Reply) -> Unavailable:
        return Unavailable(code, message, retry_after_s=reply.retry_after_s, scope=self._name)

    def _decode(self, reply: Reply, kind: type[_Answer]) -> _Answer:
        try:
            return msgspec.json.decode(reply.content, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Unknown(
                "provider-bad-answer",
                "the vault's answer is not what its API says",
                scope=self._name,
            ) from error

    def _signature(self, text: str, version: int) -> bytes:
        """``vault:v<version>:<base64>``; another version is another key, so no signature of ours."""
        parts = _SIGNATURE.fullmatch(text)
        if parts is None or int(parts[1]) != version:
            raise Unknown(
                "provider-bad-answer",
                "the vault signed with another version, or not at all",
                scope=self._name,
            )
        try:
            return base64.b64decode(parts[2], validate=True)
        except binascii.Error as error:
            raise Unknown(
                "provider-bad-answer", "the vault's signature is not base64", scope=self._name
            ) from error

    def _info(self, key_ref: str, version: int, data: _KeyData) -> KeyInfo:
        found = data.keys.get(str(version))
        if found is None:
            raise key_not_found(key_ref)
        if not isinstance(found, _KeyVersion) or data.derived or not found.public_key:
            raise Refused(
                "key-unsupported",
                f"key {key_ref!r} of type {data.type!r} cannot sign on its own",
                hint="Use a key of type rsa-3072, rsa-4096, ecdsa-p256 or ed25519, not derived.",
                scope=self._name,
            )
        spki = _spki(found.public_key, data.type)
        return KeyInfo(
            key_ref=key_ref, algorithm=algorithm_of(load_public_key(spki)), spki_der=spki
        )


def _sign_input(request: SignRequest, version: int) -> _SignInput:
    if request.algorithm == "ed25519":
        return _SignInput(input=_b64(request.tbs), key_version=version)
    return _SignInput(
        input=_b64(hashlib.sha256(request.tbs).digest()),
        key_version=version,
        prehashed=True,
        hash_algorithm="sha2-256",
        signature_algorithm="pkcs1v15" if request.algorithm == "rsa-pkcs1-sha256" else "",
        marshaling_algorithm="asn1",
    )


def _spki(public_key: str, key_type: str) -> bytes:
    """SubjectPublicKeyInfo of what Transit shows: PEM, but 32 bytes in base64 for Ed25519."""
    try:
        if key_type == "ed25519":
            raw = base64.b64decode(public_key, validate=True)
            return spki_der(ed25519.Ed25519PublicKey.from_public_bytes(raw))
        return spki_der(as_public_key(load_pem_public_key(public_key.encode())))
    except ValueError as error:
        raise Refused("key-unsupported", f"a {key_type} key that cannot be parsed") from error


def _parse_ref(key_ref: str) -> tuple[str, int]:
    parts = _KEY_REF.fullmatch(key_ref)
    if parts is None:
        raise Refused(
            "key-ref-invalid",
            f"{key_ref[:200]!r} names no version of a Transit key",
            hint="Write name:version, for example contracts:1.",
        )
    return parts[1], int(parts[2])


def _errors(reply: Reply) -> str:
    """What the vault says went wrong, shortened; it never repeats a token."""
    try:
        return "; ".join(msgspec.json.decode(reply.content, type=_ErrorAnswer).errors)[:500]
    except (msgspec.DecodeError, msgspec.ValidationError):
        return ""


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
