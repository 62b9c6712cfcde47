"""Adapters from configuration: the only place that knows which vendor is behind a name."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.adapters.keys.remote import RemoteSigner, client_tls
from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.clock import Clock
from outlast.core.errors import Refused
from outlast.ports.keys import Signer
from outlast.ports.timestamp import TimestampAuthority
from outlast.wiring.config import (
    AuthoritySection,
    Config,
    Pkcs11Provider,
    Provider,
    RemoteProvider,
    SoftwareProvider,
    TransitProvider,
)
from outlast.wiring.secrets import read_secret, secret_or_new


def build_signers(config: Config) -> dict[str, Signer]:
    """A signer for each configured provider; raises Refused naming what is wrong with which."""
    return {name: build_signer(config, name, p) for name, p in config.providers.items()}


def build_signer(config: Config, name: str, provider: Provider) -> Signer:
    """The signer of one provider."""
    if isinstance(provider, SoftwareProvider):
        return software_signer(config, provider)
    if isinstance(provider, RemoteProvider):
        files = (provider.ca_file, provider.certificate_file, provider.key_file)
        try:
            context = client_tls(*map(Path, files))
        except (OSError, ssl.SSLError) as error:
            raise _unusable(name, f"its TLS files cannot be used: {error}") from error
        return RemoteSigner(provider.url, context, name=name)
    if isinstance(provider, TransitProvider):
        return _transit(name, provider)
    return _pkcs11(name, provider)


def software_signer(config: Config, provider: SoftwareProvider) -> SoftwareSigner:
    """Keys in files; folder and passphrase default into the data folder."""
    directory = Path(provider.directory) if provider.directory else config.data / "keys"
    if provider.passphrase_file:
        passphrase = read_secret(Path(provider.passphrase_file))
    else:
        passphrase = secret_or_new(config.data / "secrets" / "passphrase")
    return SoftwareSigner(directory, passphrase)


async def open_keys(signer: Signer) -> None:
    """Have keys that lie in files open before they are needed: deriving what opens one takes 0.3 s, for which
    neither a failover nor a restarted appliance's first callers should wait."""
    if isinstance(signer, SoftwareSigner):
        await signer.open_keys()


def _transit(name: str, provider: TransitProvider) -> Signer:
    from outlast.adapters.keys.transit import TransitSigner

    token_file = Path(provider.token_file)
    context = None
    if provider.ca_file:
        try:
            context = ssl.create_default_context(cafile=provider.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(name, f"its CA file cannot be used: {error}") from error
    return TransitSigner(
        provider.url,
        lambda: read_secret(token_file).decode(),
        mount=provider.mount,
        name=name,
        ssl_context=context,
    )


def _pkcs11(name: str, provider: Pkcs11Provider) -> Signer:
    try:
        from outlast.adapters.keys.pkcs11 import Pkcs11Signer
    except ImportError as error:
        raise _unusable(
            name, "the PKCS#11 library is not installed; `pip install outlast[pkcs11]`"
        ) from error
    return Pkcs11Signer(
        Path(provider.module),
        token_label=provider.token,
        pin=read_secret(Path(provider.pin_file)),
        sessions=provider.sessions,
        name=name,
    )


def build_authorities(config: Config, clock: Clock) -> dict[str, TimestampAuthority]:
    """A client for each configured timestamp authority."""
    return {name: _authority(name, a, clock) for name, a in config.authorities.items()}


def _authority(name: str, section: AuthoritySection, clock: Clock) -> TimestampAuthority:
    from outlast.adapters.timestamp.rfc3161 import Rfc3161Authority
    from outlast.core.rfc3161 import TsaRules

    rules = TsaRules(
        roots=load_certificates(Path(section.roots_file), name),
        policies=frozenset(section.policies) or None,
        max_skew_ms=section.max_skew_s * 1000,
    )
    return Rfc3161Authority(section.url, rules, clock=clock, name=name, qualified=section.qualified)


def load_certificates(path: Path, name: str) -> tuple[bytes, ...]:
    """The certificates of a PEM file, DER; raises Refused ``config-invalid``."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(name, f"{path.name} holds no readable PEM certificates: {error}") from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)


def regions(config: Config) -> Mapping[str, str]:
    """Where each provider and authority is; those that name no region are where the site is."""
    parts = {**config.providers, **config.authorities}
    return {name: part.region or config.site.region for name, part in parts.items()}


def _unusable(name: str, why: str) -> Refused:
    return Refused("config-invalid", f"{name!r}: {why}", scope=name)
