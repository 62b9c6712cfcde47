"""Makes keys and signing requests with the configured providers, in this process, without a site."""

from __future__ import annotations

import asyncio
from typing import get_args

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.core.ids import Ids
from outlast.ports.keys import Algorithm, SignRequest
from outlast.surfaces.cli.csr import build_csr
from outlast.surfaces.cli.invocation import Invocation
from outlast.wiring.config import Config, SoftwareProvider
from outlast.wiring.embedded import certify, site_authority, software_provider
from outlast.wiring.providers import build_signer, software_signer


class Made(msgspec.Struct, frozen=True):
    """A fresh key and its certificate chain."""

    provider: str
    key_ref: str
    chain_pem: str


def make_software_key(
    cli: Invocation, provider: str, key_ref: str, algorithm: str, subject: str
) -> Made:
    """A key in a file, certified by the site's own authority. Raises Refused ``key-exists``,
    ``provider-not-software``, ``algorithm-unknown``, ``url-not-possible``."""
    config = _local(cli)
    name = provider or software_provider(config) or ""
    section, kind = _software(config, name), _algorithm(algorithm)
    signer, clock = software_signer(config, section), SystemClock()
    info = asyncio.run(signer.generate(key_ref, kind))
    chain = certify(site_authority(config, clock), info, subject, clock)
    pem = b"".join(x509.load_der_x509_certificate(c).public_bytes(Encoding.PEM) for c in chain)
    return Made(name, key_ref, pem.decode())


def make_csr(cli: Invocation, provider: str, key_ref: str, subject: str, make: str) -> bytes:
    """A signing request (PEM) for a provider's key, made first where ``make`` names an algorithm."""
    config = _local(cli)
    section = config.providers.get(provider)
    if section is None:
        raise _unknown(config, provider)

    async def work() -> bytes:
        if make:
            software = software_signer(config, _software(config, provider))
            await software.generate(key_ref, _algorithm(make))
        signer = build_signer(config, provider, section)
        try:
            info = await signer.describe(key_ref)
            operation = f"csr/{Ids(SystemClock()).new()}"

            async def sign(tbs: bytes) -> bytes:
                return await signer.sign(
                    SignRequest(
                        key_ref=key_ref, algorithm=info.algorithm, tbs=tbs, operation=operation
                    )
                )

            return await build_csr(subject, info, sign)
        finally:
            await signer.aclose()

    return asyncio.run(work())


def _local(cli: Invocation) -> Config:
    if cli.url:
        raise Refused(
            "url-not-possible",
            "keys are made on the machine that has the provider's credentials, not over the API",
            hint="Run it there without --url, then enrol.",
        )
    return cli.config


def _software(config: Config, provider: str) -> SoftwareProvider:
    section = config.providers.get(provider)
    if section is None:
        raise _unknown(config, provider)
    if not isinstance(section, SoftwareProvider):
        raise Refused(
            "provider-not-software",
            f"{provider!r} makes its keys itself",
            hint="Make the key there, then `outlast keys csr` and `outlast keys enrol`.",
        )
    return section


def _unknown(config: Config, provider: str) -> Refused:
    known = ", ".join(sorted(config.providers)) or "none"
    return Refused(
        "unknown-provider", f"no provider is called {provider!r}", hint=f"Configured are: {known}."
    )


def _algorithm(name: str) -> Algorithm:
    known = next((a for a in get_args(Algorithm) if a == name), None)
    if known is None:
        raise Refused(
            "algorithm-unknown",
            f"no algorithm is called {name!r}",
            hint=f"One of {', '.join(get_args(Algorithm))}.",
        )
    algorithm: Algorithm = known
    return algorithm
