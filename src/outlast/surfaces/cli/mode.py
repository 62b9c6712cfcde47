"""``outlast mode``: how the site works now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from outlast.surfaces.http.wire import ModeView

app = group("The site's mode: show, set by hand, release.")

PATH = "/v1/mode"
Reason = Annotated[str, typer.Option(help="Goes on record.", show_default=False)]


@command(app)
def show(cli: Invocation) -> None:
    """The mode, since when, and why."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.tables import print_facts
    from outlast.surfaces.http.wire import ModeView

    view: ModeView = call_site(cli, lambda api: api.get(PATH, ModeView))
    facts = (
        ("mode", view.mode + (" (set by hand; holds until released)" if view.by_hand else "")),
        ("since", view.since),
        ("by", view.actor),
        ("why", "; ".join(view.reasons)),
    )
    cli.show(view, lambda console: print_facts(console, facts))


@command(app, "set")
def set_(
    cli: Invocation,
    mode: Annotated[str, typer.Argument(help="normal, degraded, read-only or isolated.")],
    reason: Reason,
) -> None:
    """Set the mode by hand. It holds until it is released, whatever the rule says."""
    from outlast.core.errors import Refused
    from outlast.operations.model.mode import Mode
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import ModeAsk

    known = next((m for m in get_args(Mode) if m == mode), None)
    if known is None:
        raise Refused(
            "mode-unknown",
            f"no mode is called {mode!r}",
            hint=f"One of {', '.join(get_args(Mode))}.",
        )
    send(
        cli, "PUT", PATH, ModeAsk(mode=known, reason=reason), f"The mode is {mode} until released."
    )


@command(app)
def release(cli: Invocation, reason: Reason) -> None:
    """Let the rule decide again."""
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import ModeAsk

    send(cli, "PUT", PATH, ModeAsk(mode=None, reason=reason), "The rule decides again.")
