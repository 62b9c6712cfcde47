"""What a verifier pins: root certificates and log keys, from files and options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.errors import Refused
from outlast.core.log.signers import verifier_for

MAX_FILE_BYTES = 1 << 30
"""Longest file read, in bytes."""
MAX_PIN_FILE_BYTES = 4 * 1024 * 1024


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """DER certificates and vkeys that the caller trusts."""

    roots: tuple[bytes, ...] = ()
    tsa_roots: tuple[bytes, ...] = ()
    log_keys: tuple[str, ...] = ()


def load_pins(trust: Sequence[Path], tsa_trust: Sequence[Path], log_keys: Sequence[str]) -> Pins:
    """The pins behind the options. Raises Refused ``file-not-found``, ``certificate-malformed``,
    ``vkey-malformed``, ``vkey-unsupported``."""
    roots = tuple(der for path in trust for der in _certificates(path))
    tsa_roots = tuple(der for path in tsa_trust for der in _certificates(path))
    return Pins(
        roots=roots,
        tsa_roots=tsa_roots or roots,
        log_keys=tuple(vkey for given in log_keys for vkey in vkeys(given)),
    )


def vkeys(given: str) -> tuple[str, ...]:
    """A vkey as given, or the vkeys of a file: one a line, empty lines and those with # left out."""
    if Path(given).is_file():
        lines = read_file(Path(given), MAX_PIN_FILE_BYTES).decode("utf-8", "replace").splitlines()
        found = tuple(s for line in lines if (s := line.strip()) and not s.startswith("#"))
    else:
        found = (given,)
    for vkey in found:
        verifier_for(vkey)
    return found


def _certificates(path: Path) -> tuple[bytes, ...]:
    data = read_file(path, MAX_PIN_FILE_BYTES)
    try:
        if b"-----BEGIN" in data:
            loaded = x509.load_pem_x509_certificates(data)
        else:
            loaded = [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        raise Refused(
            "certificate-malformed",
            f"{path} holds no readable certificate",
            hint="Give PEM or DER certificates.",
        ) from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in loaded)


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """A file's content. Raises Refused ``file-not-found``, ``file-too-large``."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Refused("file-not-found", f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise Refused("file-too-large", f"{path} has more than {limit} bytes")
    return data
