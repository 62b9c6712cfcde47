"""``outlast providers``: key providers and timestamp authorities."""

from __future__ import annotations

from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("Key providers and timestamp authorities: list, disable, enable.")

PATH = "/v1/providers"
ProviderName = Annotated[str, typer.Argument(metavar="NAME", help="As configured.")]
Reason = Annotated[str, typer.Option(help="Goes on record.", show_default=False)]


@command(app, "list")
def list_(cli: Invocation) -> None:
    """All of them, and how a running site finds them."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.status import state_of
    from outlast.surfaces.cli.tables import print_table
    from outlast.surfaces.http.wire import ProviderPage

    page = call_site(cli, lambda api: api.get(PATH, ProviderPage))
    rows = [
        (s.provider, what, state_of(s), s.calls, s.failures, f"{s.p50_ms:.1f}", s.last_failure)
        for what, snapshots in (
            ("signs", page.signers),
            ("stamps", page.authorities),
            ("keeps", page.blob_stores),
        )
        for s in snapshots
    ]
    headings = ("provider", "does", "state", "calls", "failures", "p50 ms", "last failure")
    cli.show(page, lambda console: print_table(console, headings, rows, "No providers."))


@command(app)
def disable(cli: Invocation, name: ProviderName, reason: Reason) -> None:
    """Take one out of use until somebody enables it."""
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import ReasonAsk

    send(cli, "POST", f"{PATH}/{name}:disable", ReasonAsk(reason=reason), f"Disabled {name}.")


@command(app)
def enable(cli: Invocation, name: ProviderName, reason: Reason) -> None:
    """Put one back to use."""
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import ReasonAsk

    send(cli, "POST", f"{PATH}/{name}:enable", ReasonAsk(reason=reason), f"Enabled {name}.")
