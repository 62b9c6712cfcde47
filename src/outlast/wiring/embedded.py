"""What a site has without being configured: an authority of its own and one software key.

Meant for trying out and for closed groups: documents signed so are intact and traceable for anyone, but trusted
only by who trusts this site's own authority (``pki/ca.pem``).
"""

from __future__ import annotations

from pathlib import Path

from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.clock import Clock
from outlast.core.errors import Refused
from outlast.core.pki import (
    Authority,
    certificate_der,
    certificate_pem,
    issue,
    load_authority,
    make_ca,
    private_key_pem,
)
from outlast.ports.keys import Algorithm, KeyInfo
from outlast.wiring.config import Config, SoftwareProvider
from outlast.wiring.secrets import secret_or_new, write_secret

DEFAULT_KEY = "default"
DEFAULT_ALGORITHM: Algorithm = "ecdsa-p256-sha256"


def site_authority(config: Config, clock: Clock) -> Authority:
    """The site's own certificate authority, made at first use in ``pki/`` of the data folder."""
    folder = config.data / "pki"
    certificate, key = folder / "ca.pem", folder / "ca.key"
    passphrase = secret_or_new(config.data / "secrets" / "passphrase")
    if not key.exists():
        made = make_ca(f"Outlast {config.site.name} CA", DEFAULT_ALGORITHM, clock)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificate.write_bytes(certificate_pem(made.certificate))
        write_secret(key, private_key_pem(made.key, passphrase))
    return load_authority(certificate.read_bytes(), key.read_bytes(), passphrase)


async def ensure_key(signer: SoftwareSigner, key_ref: str, algorithm: Algorithm) -> KeyInfo:
    """A software key, made when it is not there."""
    try:
        return await signer.describe(key_ref)
    except Refused as error:
        if error.code != "key-not-found":
            raise
        return await signer.generate(key_ref, algorithm)


def certify(authority: Authority, info: KeyInfo, subject: str, clock: Clock) -> tuple[bytes, ...]:
    """A document-signing certificate for a key and the authority's own: a chain as enrolment takes it."""
    certificate = issue(authority, subject, info.spki_der, "document-signing", clock)
    return certificate_der(certificate), authority.certificate_der


def software_provider(config: Config) -> str | None:
    """The name of the first software provider, which the default key is made at."""
    found = (n for n, p in config.providers.items() if isinstance(p, SoftwareProvider))
    return next(found, None)


def ca_file(config: Config) -> Path:
    """Where the site's own authority's certificate is."""
    return config.data / "pki" / "ca.pem"
