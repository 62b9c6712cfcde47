"""``outlast api-keys``: who may call the API."""

from __future__ import annotations

from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("Who may call the API: create, list, revoke.")

PATH = "/v1/api-keys"
ALL = "all"


@command(app)
def create(
    cli: Invocation,
    scope: Annotated[
        list[str], typer.Option(help="What it may do; repeatable. `all` for an administrator.")
    ],
    title: Annotated[str, typer.Option(help="Whose it is.")] = "",
    tenant: Annotated[str, typer.Option(help="For which tenant; default: the caller's.")] = "",
    expires_in: Annotated[int, typer.Option(help="Days until it expires; 0: never.", min=0)] = 0,
    per_s: Annotated[
        float, typer.Option(help="Requests per second; 0: no limit of its own.", min=0)
    ] = 0,
) -> None:
    """Make an API key. Its token is printed once, on standard output, and kept nowhere."""
    from rich.console import Console

    from outlast.core.access import SCOPES
    from outlast.core.clock import SystemClock
    from outlast.core.ids import Ids
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.http.wire import ApiKeyAsk, ApiKeyMade

    ask = ApiKeyAsk(
        scopes=SCOPES if ALL in scope else tuple(scope),
        tenant=tenant,
        title=title,
        expires_in_s=expires_in * 86_400,
        per_s=per_s,
    )
    key = Ids(SystemClock()).new()
    made = call_site(cli, lambda api: api.send("POST", PATH, ask, ApiKeyMade, key=key))

    def render(console: Console) -> None:
        cli.note(f"API key {made.id}. Its token, shown this once:")
        console.print(made.token, markup=False, soft_wrap=True)

    cli.show(made, render)


@command(app, "list")
def list_(cli: Invocation) -> None:
    """API keys, newest first; never their tokens."""
    from outlast.core.access import SCOPES
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.tables import print_table, short_time
    from outlast.surfaces.http.wire import ApiKeyPage

    page = call_site(cli, lambda api: api.get(PATH, ApiKeyPage))
    rows = [
        (k.id, k.status, k.tenant, short_time(k.created), short_time(k.expires), k.title,
         ALL if k.scopes == SCOPES else " ".join(k.scopes))
        for k in page.items
    ]  # fmt: skip
    headings = ("id", "status", "tenant", "created (UTC)", "expires", "title", "scopes")
    cli.show(page, lambda console: print_table(console, headings, rows, "No API keys."))


@command(app)
def revoke(
    cli: Invocation, key_id: Annotated[str, typer.Argument(metavar="ID", help="An API key's id.")]
) -> None:
    """Revoke an API key, for good."""
    from outlast.surfaces.cli.commanding import send

    send(cli, "DELETE", f"{PATH}/{key_id}", {}, f"Revoked {key_id}.")
