"""Configurations that would be obeyed, and should not."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from outlast.adapters.keys.remote import RemoteSigner
from outlast.adapters.keys.transit import TransitSigner
from outlast.core.errors import Refused
from outlast.signing.classes import DocumentClass
from outlast.wiring.config import (
    AuthoritySection,
    Config,
    SoftwareProvider,
    TransitProvider,
    WorkSection,
    check,
)
from outlast.wiring.providers import build_signer


def test_a_provider_and_an_authority_cannot_share_a_name() -> None:
    """Policy, residency and health go by name: one's region and permissions would count for the other."""
    authority = AuthoritySection(url="https://tsa.example", roots_file="roots.pem", region="us")
    config = Config(
        providers={"one": SoftwareProvider(region="eu")}, authorities={"one": authority}
    )
    with pytest.raises(Refused, match="'one'"):
        check(config)


@pytest.mark.parametrize("url", ["http://vault.example:8200", "ftp://vault.example", "vault:8200"])
def test_a_vault_token_does_not_go_over_the_network_in_the_clear(url: str) -> None:
    """Plain HTTP is for this machine only."""
    with pytest.raises(Refused, match="config-invalid"):
        TransitSigner(url, "token")
    TransitSigner("http://127.0.0.1:8200", "token")
    TransitSigner("https://vault.example:8200", "token")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8443", "signer.example:8443"])
def test_an_appliance_is_spoken_to_over_tls_only(url: str) -> None:
    """Over plain HTTP nobody would be authenticated, neither we nor the appliance."""
    with pytest.raises(Refused, match="config-invalid"):
        RemoteSigner(url, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def test_a_vaults_unreadable_ca_file_is_named(tmp_path: Path) -> None:
    """A clear refusal, not a traceback."""
    provider = TransitProvider(
        url="https://vault.example", token_file="token", ca_file=str(tmp_path / "missing.pem")
    )
    with pytest.raises(Refused, match="'vault'"):
        build_signer(Config(), "vault", provider)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (Config(work=WorkSection(concurrency=0)), "work.concurrency"),
        (Config(work=WorkSection(lease_ms=10)), "work.lease_ms"),
        (Config(work=WorkSection(max_backlog=0)), "work.max_backlog"),
        (Config(classes={"gold": DocumentClass(reserve_bytes=100)}), "classes.gold.reserve_bytes"),
        (Config(classes={"gold": DocumentClass(max_bytes=1 << 40)}), "classes.gold.max_bytes"),
        (Config(classes={"gold": DocumentClass(max_signatures=0)}), "classes.gold.max_signatures"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(config: Config, named: str) -> None:
    """A worker without hands accepts for ever; a reservation out of range refuses every upload."""
    with pytest.raises(Refused, match=named):
        check(config)
