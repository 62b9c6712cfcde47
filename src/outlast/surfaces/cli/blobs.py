"""``outlast blobs``: the stores that documents are kept in, what they owe, and the scrub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rich.console import Console

    from outlast.surfaces.http.blobwire import BlobsView

app = group("Where documents are kept: status, debts, scrub.")

PATH = "/v1/blobs"
WATCH_EVERY_S = 0.5
_MOVED = {
    "pause": "The scrub rests.",
    "resume": "The scrub goes on.",
    "stop": "The scrub is given up.",
}


@command(app)
def status(cli: Invocation) -> None:
    """The stores, what is owed, and how far the newest scrub is or what it found."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.http.blobwire import BlobsView

    view = call_site(cli, lambda api: api.get(PATH, BlobsView))
    cli.show(view, lambda console: _print(console, view))


@command(app)
def debts(
    cli: Invocation,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 100,
    cursor: Annotated[str, typer.Option(help="Where the page before this one ended.")] = "",
) -> None:
    """Copies and deletions that a store still owes; they are settled when it is back."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.tables import print_table, short_time
    from outlast.surfaces.http.blobwire import DebtPage

    query = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
    page = call_site(cli, lambda api: api.get(f"{PATH}/debts", DebtPage, query=query))
    rows = [
        (d.blob, d.want, ", ".join(d.stores), short_time(d.since), ", ".join(d.reasons))
        for d in page.items
    ]
    headings = ("blob", "shall be", "in", "since (UTC)", "because")
    cli.show(page, lambda console: print_table(console, headings, rows, "Nothing is owed."))
    if page.next:
        cli.note(f"More: --cursor {page.next}")


@command(app)
def scrub(
    cli: Invocation,
    look_only: Annotated[bool, typer.Option("--look-only", help="Find, and mend nothing.")] = False,
    delete_orphans_older_than_h: Annotated[
        int,
        typer.Option(
            min=0,
            help="Delete what no log entry refers to and is older than so many hours; 0: nothing.",
        ),
    ] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Let the running one rest.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let it go on.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Give it up.")] = False,
) -> None:
    """Read every copy of every document, compare it with its digest, and mend what can be mended."""
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.blobwire import ScrubAsk

    moves = [
        verb for verb, wanted in (("pause", pause), ("resume", resume), ("stop", stop)) if wanted
    ]
    if len(moves) > 1:
        raise typer.BadParameter("one of --pause, --resume, --stop")
    if moves:
        send(cli, "POST", f"{PATH}/scrub:{moves[0]}", {}, _MOVED[moves[0]])
        return
    ask = ScrubAsk(
        mend=not look_only, delete_orphans_older_than_s=delete_orphans_older_than_h * 3600
    )
    send(cli, "POST", f"{PATH}/scrub", ask, "A scrub has begun.")
    if wait:
        _wait(cli)


def _wait(cli: Invocation) -> None:
    import asyncio

    from outlast.core.errors import Refused
    from outlast.surfaces.cli.client import Api
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.http.blobwire import BlobsView

    async def until_ended(api: Api) -> BlobsView:
        while True:
            view = await api.get(PATH, BlobsView)
            if view.scrub.status in ("idle", "failed"):
                return view
            await asyncio.sleep(WATCH_EVERY_S)

    view = call_site(cli, until_ended)
    if view.scrub.status == "failed":
        raise Refused(
            "scrub-failed",
            f"the scrub cannot go on: {view.scrub.error}",
            hint="Mend the cause; then `outlast jobs list --state dead` and `jobs replay`, or begin a new one.",
        )
    cli.show(view, lambda console: _print(console, view))


def _print(console: Console, view: BlobsView) -> None:
    from outlast.surfaces.cli.status import state_of
    from outlast.surfaces.cli.tables import print_table, short_time

    health = {s.provider.removeprefix("blobs."): s for s in view.health}
    rows = [
        (name, kind, state_of(health[name]) if name in health else "in use")
        for name, kind in view.stores.items()
    ]
    print_table(console, ("store", "kind", "state"), rows, "No stores.")
    scrub, tally, refs = view.scrub, view.scrub.tally, view.scrub.references
    lines = [f"owed    {view.owed} copies and deletions"]
    if scrub.run:
        when = f"begun {short_time(scrub.begun)}"
        if scrub.ended:
            when += f", {'ended' if scrub.complete else 'given up'} {short_time(scrub.ended)}"
        lines += [
            f"scrub   {scrub.status}, {when} (UTC)",
            *([f"        {scrub.error}"] if scrub.error else []),
            f"        {tally.blobs} blobs, {tally.read_bytes / 1e6:.1f} MB read: {tally.missing} missing,"
            f" {tally.corrupt} corrupt, {tally.mended} mended, {tally.dead} damaged everywhere",
        ]
    if scrub.complete:
        lines.append(
            f"        {refs.referenced} referred to, {refs.lost_count} of them lost;"
            f" {refs.orphan_count} referred to by nothing, {refs.deleted} of them deleted"
        )
    lines += [f"        {f.store}: {f.blob} is {f.problem} ({f.outcome})" for f in scrub.findings]
    lines += [f"        lost: {name}" for name in refs.lost]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
