"""Signing with keys kept in encrypted files of this machine.

A directory holds one file per key, ``<key_ref>.p8``: PKCS#8 encrypted with PBES2, scrypt and AES-256-CBC
(RFC 8018, RFC 7914 section 7), so ``openssl pkey -in <file>`` opens it with the passphrase and nothing of ours. A key is
decrypted once, at its first use, and stays in this process's memory: signing waits for no disk.

Guarantees: a key file is complete or absent (written aside, synced, linked; an existing key is never replaced),
of mode 0600. Refuses key names that could leave the directory, and keys the project does not sign with. It does
not protect against whoever may read this process's memory: that is what the other adapters are for.
"""

from __future__ import annotations

import os
from pathlib import Path

import anyio
from anyio import to_thread
from asn1crypto import core as asn1
from asn1crypto import pem
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from outlast.core.asymmetric import (
    PrivateKey,
    algorithm_of,
    as_private_key,
    generate_private_key,
    sign_bytes,
    spki_der,
)
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.ports.keys import Algorithm, KeyInfo, SignRequest
from outlast.ports.keys_checks import (
    check_algorithm,
    check_tbs,
    credentials_refused,
    key_not_found,
)

KEY_SUFFIX = ".p8"
MAX_KEY_REF_CHARS = 64
MAX_KEY_FILE_BYTES = 32 * 1024
MAX_CACHED_KEYS = 1024
"""Most keys held open; a directory with more is a mistake, and the next key is refused."""
MAX_OPENED_AHEAD = 64
"""Keys opened before anybody asks for them: bounds the CPU that a start takes to 20 s, one core, beside the work."""

# scrypt cost: 16 MiB and about 0.3 s per key file. p=5 rather than a larger n, because OpenSSL refuses to
# derive with more than 32 MiB; these are the OWASP (Password Storage) equivalents of n=2^17, p=1.
SCRYPT_N = 2**14
SCRYPT_R = 8
SCRYPT_P = 5

_REF_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_SALT_BYTES = 16
_AES_KEY_BYTES = 32
_AES_BLOCK_BITS = 128

_PBES2 = "1.2.840.113549.1.5.13"
_SCRYPT = "1.3.6.1.4.1.11591.4.11"
_AES256_CBC = "2.16.840.1.101.3.4.1.42"


class SoftwareSigner:
    """A ``Signer`` over the key files of one directory, all under one passphrase.

    The directory is made (mode 0700) if it is not there. ``passphrase`` must not be empty. Errors: Refused
    ``key-not-found``, ``key-algorithm-mismatch``, ``tbs-too-large``, ``credentials-refused``
    (the passphrase opens no such file), ``key-unsupported``; Unavailable ``keystore-unreadable``.
    """

    def __init__(self, directory: Path, passphrase: bytes) -> None:
        if not passphrase:
            raise credentials_refused(
                "the key directory needs a passphrase",
                hint="Configure a passphrase of at least 16 random characters.",
            )
        self._directory = directory
        self._passphrase = passphrase
        self._keys: dict[str, tuple[PrivateKey, KeyInfo]] = {}
        self._loading = anyio.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def sign(self, request: SignRequest) -> bytes:
        """The signature over ``request.tbs``; 0.05 ms (P-256) to 0.7 ms (RSA-3072) once the key is loaded."""
        check_tbs(request)
        key, info = self._keys.get(request.key_ref) or await self._load(request.key_ref)
        check_algorithm(request, info)
        # inline: core.asymmetric measured that a thread frees nothing
        return sign_bytes(key, request.tbs)

    async def describe(self, key_ref: str) -> KeyInfo:
        """Algorithm and public key. Raises Refused ``key-not-found``."""
        _, info = self._keys.get(key_ref) or await self._load(key_ref)
        return info

    async def generate(self, key_ref: str, algorithm: Algorithm) -> KeyInfo:
        """Make and keep a new key; when this returns it survives a power cut.

        Raises Refused ``key-exists`` where the name is taken, Unavailable ``keystore-unwritable``.
        """
        path = self._path(key_ref)
        async with self._loading:
            key, info = await to_thread.run_sync(self._generate_file, path, key_ref, algorithm)
            self._remember(key, info)
        return info

    async def check(self) -> None:
        """Returns when the directory can be read. Raises Unavailable ``keystore-unreadable``."""
        readable = await to_thread.run_sync(os.access, self._directory, os.R_OK | os.X_OK)
        if not readable:
            raise _unreadable(self._directory)

    async def aclose(self) -> None:
        """Forgets every key. Python cannot wipe memory: the pages are freed, not cleared."""
        self._keys.clear()

    async def open_keys(self) -> None:
        """Decrypt up to MAX_OPENED_AHEAD of the directory's keys, so that a signature which fails over to this
        provider does not wait 0.3 s for its key. A key that cannot be opened is passed over: using it tells why."""
        for path in sorted(await to_thread.run_sync(list, self._directory.glob(f"*{KEY_SUFFIX}"))):
            if len(self._keys) >= MAX_OPENED_AHEAD:
                return
            try:
                await self.describe(path.name.removesuffix(KEY_SUFFIX))
            except OutlastError:
                continue

    async def _load(self, key_ref: str) -> tuple[PrivateKey, KeyInfo]:
        path = self._path(key_ref)
        # one at a time: many requests for a cold key must not derive its passphrase many times over
        async with self._loading:
            if key_ref in self._keys:
                return self._keys[key_ref]
            key = await to_thread.run_sync(_read_key_file, path, key_ref, self._passphrase)
            info = _info(key_ref, key)
            self._remember(key, info)
        return key, info

    def _remember(self, key: PrivateKey, info: KeyInfo) -> None:
        if len(self._keys) >= MAX_CACHED_KEYS:
            raise Refused(
                "too-many-keys",
                f"this provider already holds {MAX_CACHED_KEYS} keys open",
                hint="Split the keys over several providers, each with its own directory.",
            )
        self._keys[info.key_ref] = (key, info)

    def _generate_file(
        self, path: Path, key_ref: str, algorithm: Algorithm
    ) -> tuple[PrivateKey, KeyInfo]:
        key = generate_private_key(algorithm)
        try:
            _write_new(path, encrypt_pkcs8(key, self._passphrase))
        except FileExistsError as error:
            raise Refused(
                "key-exists", f"there is already a key {key_ref!r}", hint="Choose another name."
            ) from error
        except OSError as error:
            raise Unavailable(
                "keystore-unwritable", f"cannot write the key file: {error.strerror}"
            ) from error
        return key, _info(key_ref, key)

    def _path(self, key_ref: str) -> Path:
        if not 0 < len(key_ref) <= MAX_KEY_REF_CHARS or not _REF_CHARS.issuperset(key_ref):
            raise key_not_found(key_ref)
        if key_ref.startswith("."):
            raise key_not_found(key_ref)
        return self._directory / f"{key_ref}{KEY_SUFFIX}"


def encrypt_pkcs8(key: PrivateKey, passphrase: bytes) -> bytes:
    """A private key as PEM ``ENCRYPTED PRIVATE KEY``: PBES2 with scrypt and AES-256-CBC."""
    plain = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    salt, iv = os.urandom(_SALT_BYTES), os.urandom(_AES_BLOCK_BITS // 8)
    derived = Scrypt(salt=salt, length=_AES_KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    padder = padding.PKCS7(_AES_BLOCK_BITS).padder()
    cipher = Cipher(algorithms.AES(derived.derive(passphrase)), modes.CBC(iv)).encryptor()
    sealed = cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()
    kdf = {"salt": salt, "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "length": _AES_KEY_BYTES}
    parameters = _Pbes2Parameters(
        {
            "kdf": {"algorithm": _SCRYPT, "parameters": _ScryptParameters(kdf)},
            "cipher": {"algorithm": _AES256_CBC, "parameters": asn1.OctetString(iv)},
        }
    )
    info = _EncryptedPrivateKeyInfo(
        {"algorithm": {"algorithm": _PBES2, "parameters": parameters}, "data": sealed}
    )
    return bytes(pem.armor("ENCRYPTED PRIVATE KEY", info.dump()))


class _AlgorithmIdentifier(asn1.Sequence):  # type: ignore[misc]  # asn1crypto is untyped
    _fields = [  # noqa: RUF012 - asn1crypto's way of declaring a structure
        ("algorithm", asn1.ObjectIdentifier),
        ("parameters", asn1.Any),
    ]


class _ScryptParameters(asn1.Sequence):  # type: ignore[misc]  # asn1crypto is untyped
    """RFC 7914 section 7.1."""

    _fields = [  # noqa: RUF012 - asn1crypto's way of declaring a structure
        ("salt", asn1.OctetString),
        ("n", asn1.Integer),
        ("r", asn1.Integer),
        ("p", asn1.Integer),
        ("length", asn1.Integer),
    ]


class _Pbes2Parameters(asn1.Sequence):  # type: ignore[misc]  # asn1crypto is untyped
    """RFC 8018 appendix A.4."""

    _fields = [  # noqa: RUF012 - asn1crypto's way of declaring a structure
        ("kdf", _AlgorithmIdentifier),
        ("cipher", _AlgorithmIdentifier),
    ]


class _EncryptedPrivateKeyInfo(asn1.Sequence):  # type: ignore[misc]  # asn1crypto is untyped
    """RFC 5958 section 3; asn1crypto's own knows no scrypt."""

    _fields = [  # noqa: RUF012 - asn1crypto's way of declaring a structure
        ("algorithm", _AlgorithmIdentifier),
        ("data", asn1.OctetString),
    ]


def _info(key_ref: str, key: PrivateKey) -> KeyInfo:
    return KeyInfo(
        key_ref=key_ref, algorithm=algorithm_of(key.public_key()), spki_der=spki_der(key)
    )


def _read_key_file(path: Path, key_ref: str, passphrase: bytes) -> PrivateKey:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise _unreadable(path.parent) from error
        raise key_not_found(key_ref) from error
    except OSError as error:
        raise _unreadable(path.parent) from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise Refused("key-unsupported", f"key file of {key_ref!r} is too large to be a key")
    try:
        return as_private_key(serialization.load_pem_private_key(data, password=passphrase))
    except UnsupportedAlgorithm as error:
        raise Refused("key-unsupported", f"key file of {key_ref!r} is of no known kind") from error
    except (ValueError, TypeError) as error:
        # a wrong passphrase and a damaged file look alike under CBC; TypeError: the file is not encrypted
        raise credentials_refused(
            f"the passphrase does not open key {key_ref!r}",
            hint="Check the passphrase, and that the file is encrypted PKCS#8 and undamaged.",
        ) from error


def _write_new(path: Path, data: bytes) -> None:
    """Whole or not at all, never over an existing file, on disk when it returns."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # a link, not a rename: rename would silently replace a key that has signed
        os.link(aside, path)
    finally:
        os.unlink(aside)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unreadable(directory: Path) -> Unavailable:
    return Unavailable(
        "keystore-unreadable",
        f"the key directory {directory.name!r} cannot be read",
        hint="Check that it is mounted, and that the process may read it.",
    )
