"""``outlast status``: the status page of a running site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, single

if TYPE_CHECKING:
    from rich.text import Text

    from outlast.core.routing.health import ProviderSnapshot
    from outlast.operations.views import NodeView, Status

app = single()

WATCH_EVERY_S = 1.0


@command(app)
def status(
    cli: Invocation,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look every second until Ctrl-C.")
    ] = False,
) -> None:
    """How a running site is: verdict, mode and why, providers, work, timestamps owed, log."""
    import asyncio

    from outlast.operations.views import Status
    from outlast.surfaces.cli.client import Api
    from outlast.surfaces.cli.connect import call_site

    async def once(api: Api) -> None:
        page = await api.get("/v1/status", Status)
        cli.show(page, lambda console: console.print(picture(page)))

    async def on_and_on(api: Api) -> None:
        from rich.live import Live

        if cli.json:
            while True:
                cli.line(await api.get("/v1/status", Status))
                await asyncio.sleep(WATCH_EVERY_S)
        page = await api.get("/v1/status", Status)
        with Live(picture(page), console=cli.console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(WATCH_EVERY_S)
                page = await api.get("/v1/status", Status)
                live.update(picture(page), refresh=True)

    call_site(cli, on_and_on if watch else once, embed=False)


_COLOURS = {
    "operational": "green",
    "degraded": "yellow",
    "partial-outage": "red",
    "outage": "bold red",
}


def picture(page: Status) -> Text:
    """The page as text and a table."""
    from rich.markup import escape
    from rich.text import Text

    from outlast.surfaces.cli.tables import table_text

    work, log = page.work, page.log
    by_hand = " (set by hand)" if page.mode_by_hand else ""
    lines = [
        f"[{_COLOURS[page.verdict]}]{page.verdict}[/]  site {escape(page.site)}, mode {page.mode}{by_hand}"
    ]
    now, then = page.reasons, page.mode_reasons
    why = then if page.mode_by_hand else now or then
    lines += [f"  why: {escape(reason)}" for reason in why]
    lines += [
        f"  work   {work.ready} ready, {work.leased} running, {work.dead} dead, {work.parked} parked"
        f" ({work.drain_per_s:.1f}/s)",
        f"  log    {log.committed} entries, {log.published} published",
        f"  owed   {page.timestamps_owed} timestamps, {page.copies_owed} copies of documents",
    ]
    if page.disk_free_bytes is not None:
        lines.append(f"  disk   {page.disk_free_bytes / 2**30:.1f} GiB free")
    if len(page.nodes) > 1:
        nodes = ("  node", "state", "mode", "version", "since (UTC)")
        lines.append(table_text(nodes, map(_node_row, page.nodes)))
    headings = ("  provider", "state", "calls", "failures", "p50 ms", "p99 ms", "last failure")
    lines.append(
        table_text(headings, map(_row, (*page.signers, *page.authorities, *page.blob_stores)))
    )
    return Text.from_markup("\n".join(lines), overflow="ignore")


def _node_row(node: NodeView) -> tuple[str, ...]:
    from outlast.core.clock import iso
    from outlast.surfaces.cli.tables import short_time

    since_ms = node.stopped_ms if node.state == "stopped" else node.started_ms
    mode = node.mode if node.state == "up" else ""
    return (f"  {node.name}", node.state, mode, node.version, short_time(iso(since_ms)))


def _row(snapshot: ProviderSnapshot) -> tuple[str, ...]:
    return (
        f"  {snapshot.provider}",
        state_of(snapshot),
        str(snapshot.calls),
        str(snapshot.failures),
        f"{snapshot.p50_ms:.1f}",
        f"{snapshot.p99_ms:.1f}",
        snapshot.last_failure,
    )


def state_of(snapshot: ProviderSnapshot) -> str:
    """In use, or why not."""
    if snapshot.disabled:
        return f"disabled: {snapshot.disabled}"
    if snapshot.throttled_ms:
        return f"throttled for {snapshot.throttled_ms / 1000:.1f} s"
    if snapshot.state == "closed":
        return "in use"
    return f"ejected ({snapshot.state}) for {snapshot.open_ms / 1000:.1f} s"
