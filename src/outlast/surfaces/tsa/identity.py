"""Who the local authority is: a key, its certificate, and the root that clients pin, in one folder.

    tsa.key.pem   the stamping key, mode 0600
    tsa.pem       its certificate
    root.pem      what clients pin; written last, so a folder that has it is complete

All three are made at the first start. The root's key is used once and not kept: there is nothing to guard but the
stamping key, and a new identity (delete the folder) is a new root to pin.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from outlast.core.asymmetric import (
    KeyAlgorithm,
    as_private_key,
    generate_private_key,
    spki_der,
)
from outlast.core.clock import Clock
from outlast.core.errors import Corrupt
from outlast.core.pki import certificate_der, certificate_pem, issue, make_ca, private_key_pem
from outlast.core.tsa import TokenSigner

KEY_FILE = "tsa.key.pem"
CERTIFICATE_FILE = "tsa.pem"
ROOT_FILE = "root.pem"


def load_or_make_identity(
    directory: Path, name: str, clock: Clock, *, algorithm: KeyAlgorithm = "ecdsa-p256-sha256"
) -> TokenSigner:
    """The identity in ``directory``, made first where there is none. ``name`` becomes its common name.

    Blocking. Raises Corrupt ``tsa-identity-unreadable``, OSError.
    """
    if not (directory / ROOT_FILE).exists():
        _make(directory, name, clock, algorithm)
    try:
        key = as_private_key(
            serialization.load_pem_private_key((directory / KEY_FILE).read_bytes(), password=None)
        )
        certificate = x509.load_pem_x509_certificate((directory / CERTIFICATE_FILE).read_bytes())
    except (ValueError, TypeError) as error:
        raise _unreadable("its key or certificate cannot be parsed") from error
    if key.public_key() != certificate.public_key():
        raise _unreadable("its key does not belong to its certificate")
    return TokenSigner(key=key, certificate_der=certificate_der(certificate))


def _make(directory: Path, name: str, clock: Clock, algorithm: KeyAlgorithm) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    root = make_ca(f"{name} root (local, not qualified)", algorithm, clock)
    key = generate_private_key(algorithm)
    certificate = issue(root, f"{name} (local, not qualified)", spki_der(key), "tsa", clock)
    _write(directory / KEY_FILE, private_key_pem(key), 0o600)
    _write(directory / CERTIFICATE_FILE, certificate_pem(certificate), 0o644)
    _write(directory / ROOT_FILE, certificate_pem(root.certificate), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _unreadable(why: str) -> Corrupt:
    return Corrupt(
        "tsa-identity-unreadable",
        f"the local authority's identity cannot be used: {why}",
        hint="Restore its folder, or delete it: a new one is made, with a new root to pin.",
    )
