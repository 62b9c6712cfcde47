"""``outlast keys``: signing keys and where they are enrolled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group, refuse_overwriting

if TYPE_CHECKING:
    from rich.console import Console

    from outlast.surfaces.http.wire import KeyPage

app = group("Signing keys: list, generate, csr, enrol, disable, enable.")

PATH = "/v1/keys"
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="The key's name, as requests use it.")]
Provider = Annotated[str, typer.Option(help="The provider, as configured.", show_default=False)]
KeyRef = Annotated[str, typer.Option(help="The provider's own name for the key.")]
Reason = Annotated[str, typer.Option(help="Goes on record.")]


@command(app, "list")
def list_(cli: Invocation) -> None:
    """Keys, and the providers and certificates they are enrolled with."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.http.wire import KeyPage

    page = call_site(cli, lambda api: api.get(PATH, KeyPage))
    cli.show(page, lambda console: _print_keys(console, page))


@command(app)
def enrol(
    cli: Invocation,
    name: KeyName,
    provider: Provider,
    key_ref: KeyRef,
    chain: Annotated[
        Path, typer.Option(help="PEM certificates: the key's own first, then its issuers.")
    ],
) -> None:
    """Bind a provider's key and its certificate to a name. Enrol one at each provider, and signing fails over."""
    from outlast.surfaces.cli.pins import MAX_PIN_FILE_BYTES, read_file

    pem = read_file(chain, MAX_PIN_FILE_BYTES).decode("ascii", "replace")
    _enrol(cli, name, provider, key_ref, pem)


@command(app)
def generate(
    cli: Invocation,
    name: KeyName,
    provider: Annotated[
        str, typer.Option(help="A software provider; default: the first configured.")
    ] = "",
    key_ref: KeyRef = "",
    algorithm: Annotated[
        str, typer.Option(help="ecdsa-p256-sha256, rsa-pkcs1-sha256 or ed25519.")
    ] = "ecdsa-p256-sha256",
    subject: Annotated[str, typer.Option(help="Common name in the certificate.")] = "",
) -> None:
    """Make a key in a file of this machine, certify it by the site's own authority, and enrol it.

    For a certificate by another authority: `outlast keys csr`, then `outlast keys enrol`.
    """
    from outlast.surfaces.cli.making import make_software_key

    made = make_software_key(cli, provider, key_ref or name, algorithm, subject or name)
    _enrol(cli, name, made.provider, made.key_ref, made.chain_pem)


@command(app)
def csr(
    cli: Invocation,
    provider: Provider,
    key_ref: KeyRef,
    subject: Annotated[str, typer.Option(help="Distinguished name, such as CN=Acme seal,O=Acme.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the request goes (PEM).")],
    make: Annotated[
        str,
        typer.Option(
            help="Make the key first, with this algorithm (software providers).", show_default=False
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a certificate signing request for a key that any provider keeps."""
    from outlast.surfaces.cli.making import make_csr

    refuse_overwriting(out, force)
    out.write_bytes(make_csr(cli, provider, key_ref, subject, make))
    cli.note(
        f"Wrote {out}. With the certificate: outlast keys enrol NAME --provider {provider}"
        f" --key-ref {key_ref} --chain chain.pem"
    )


@command(app)
def disable(
    cli: Invocation,
    name: KeyName,
    provider: Annotated[str, typer.Option(help="Only at this provider.")] = "",
    reason: Reason = "",
) -> None:
    """Let a key sign no more, everywhere or at one provider."""
    _switch(cli, name, "disable", provider, reason)


@command(app)
def enable(
    cli: Invocation,
    name: KeyName,
    provider: Annotated[str, typer.Option(help="Only at this provider.")] = "",
    reason: Reason = "",
) -> None:
    """Let it sign again."""
    _switch(cli, name, "enable", provider, reason)


def _enrol(cli: Invocation, name: str, provider: str, key_ref: str, chain_pem: str) -> None:
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import EnrolAsk

    ask = EnrolAsk(key_ref=key_ref, chain_pem=chain_pem)
    send(cli, "PUT", f"{PATH}/{name}/bindings/{provider}", ask, f"Enrolled {name} at {provider}.")


def _switch(cli: Invocation, name: str, action: str, provider: str, reason: str) -> None:
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import BindingAsk

    where = f" at {provider}" if provider else ""
    ask = BindingAsk(provider=provider, reason=reason)
    send(cli, "POST", f"{PATH}/{name}:{action}", ask, f"{action.title()}d {name}{where}.")


def _print_keys(console: Console, page: KeyPage) -> None:
    from outlast.surfaces.cli.tables import print_table, short_time

    rows = [
        (
            key.name,
            key.signatures,
            b.provider,
            b.key_ref,
            b.algorithm,
            "disabled" if b.disabled else "enabled",
            short_time(b.not_after),
            b.subject,
        )
        for key in page.items
        for b in key.bindings
    ]
    headings = (
        "key",
        "signed",
        "provider",
        "key ref",
        "algorithm",
        "state",
        "valid until",
        "subject",
    )
    print_table(console, headings, rows, "No keys. `outlast keys generate NAME` makes one.")
