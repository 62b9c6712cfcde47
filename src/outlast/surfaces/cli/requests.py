"""``outlast requests``: signature requests of a site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rich.console import Console

    from outlast.signing.views import RequestView
    from outlast.surfaces.http.wire import RequestPage

app = group("Signature requests: list, show, approve, cancel, fetch.")

PATH = "/v1/signature-requests"
RequestId = Annotated[str, typer.Argument(metavar="ID", help="A request's id.")]


@command(app, "list")
def list_(
    cli: Invocation,
    status: Annotated[str, typer.Option(help="Only those in this status.")] = "",
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 50,
    cursor: Annotated[str, typer.Option(help="Where the page before this one ended.")] = "",
) -> None:
    """Requests, newest first."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.http.wire import RequestPage

    query = {"status": status, "limit": str(limit), "cursor": cursor}
    page = call_site(cli, lambda api: api.get(PATH, RequestPage, query=query))
    cli.show(page, lambda console: _print_page(console, page))


@command(app)
def show(cli: Invocation, request_id: RequestId) -> None:
    """A request: where it stands, its signatures, attempts and failovers."""
    from outlast.signing.views import RequestView
    from outlast.surfaces.cli.connect import call_site

    view = call_site(cli, lambda api: api.get(f"{PATH}/{request_id}", RequestView))
    cli.show(view, lambda console: _print_request(console, view))


@command(app)
def approve(cli: Invocation, request_id: RequestId) -> None:
    """Approve a request of a class that needs a second person; not by whoever made it."""
    from outlast.surfaces.cli.commanding import send

    send(cli, "POST", f"{PATH}/{request_id}/approve", {}, f"Approved {request_id}.")


@command(app)
def cancel(
    cli: Invocation,
    request_id: RequestId,
    reason: Annotated[str, typer.Option(help="Goes on record.")] = "",
) -> None:
    """Withdraw a request that has no signature yet."""
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import CancelAsk

    ask = CancelAsk(reason=reason)
    send(cli, "POST", f"{PATH}/{request_id}/cancel", ask, f"Withdrew {request_id}.")


@command(app)
def fetch(
    cli: Invocation,
    request_id: RequestId,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The signed file.")] = None,
    evidence: Annotated[Path | None, typer.Option(help="The evidence bundle (.zip).")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is signed.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a request's signed file, its evidence bundle, or both."""
    from outlast.core.errors import Refused
    from outlast.surfaces.cli.client import Api
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.invocation import refuse_overwriting
    from outlast.surfaces.cli.signing import fetch as write
    from outlast.surfaces.cli.signing import until_final

    if out is None and evidence is None:
        raise Refused("out-missing", "say what to write", hint="-o FILE, --evidence FILE, or both.")
    for target in (out, evidence):
        if target is not None:
            refuse_overwriting(target, force)

    async def work(api: Api) -> RequestView:
        view = await until_final(api, request_id, wait)
        await write(api, view, out, evidence)
        return view

    view = call_site(cli, work)
    written = " and ".join(str(t) for t in (out, evidence) if t is not None)
    cli.show(view, lambda console: console.print(f"Wrote {written}.", markup=False))


def _print_page(console: Console, page: RequestPage) -> None:
    from outlast.surfaces.cli.tables import print_table, short_time

    rows = [
        (
            v.id,
            v.status,
            v.class_name,
            short_time(v.requested),
            ", ".join(s.provider for s in v.signatures if s.provider),
            ", ".join(s.timestamp.state for s in v.signatures if s.timestamp.state != "none"),
            v.title,
        )
        for v in page.items
    ]
    headings = ("id", "status", "class", "requested (UTC)", "signed by", "timestamp", "title")
    print_table(console, headings, rows, "No requests.")
    if page.next:
        console.print(f"More: --cursor {page.next}", markup=False)


def _print_request(console: Console, view: RequestView) -> None:
    from outlast.surfaces.cli.tables import print_facts

    facts: list[tuple[str, object]] = [
        ("request", view.id),
        ("status", f"{view.status}: {view.status_text}"),
        ("reason", view.reason),
        ("class", f"{view.class_name} ({view.level}, {view.format})"),
        ("title", view.title),
        ("reference", view.reference),
        ("document", view.document),
        ("  sha256", view.document_sha256),
        ("requested", f"{view.requested} by {view.requested_by}"),
        ("completed", view.completed),
        ("file", f"{view.file.size} bytes, sha256 {view.file.sha256}" if view.file else None),
    ]
    for number, signature in enumerate(view.signatures, 1):
        stamp = signature.timestamp
        stamped = " ".join(
            part
            for part in (
                stamp.state,
                stamp.time or "",
                f"by {stamp.authority}" if stamp.authority else "",
                f"due {stamp.due}" if stamp.due and stamp.state == "owed" else "",
            )
            if part
        )
        facts += [
            (f"signature {number}", f"key {signature.key}"),
            ("  provider", signature.provider),
            ("  attempts", signature.attempts),
            ("  failovers", ", ".join(signature.failovers)),
            ("  certificate", signature.certificate_sha256),
            ("  signing time", signature.signing_time),
            ("  numbers", f"{signature.key_number} of its key, {signature.document_number} of its document"
             if signature.key_number else None),
            ("  timestamp", stamped),
        ]  # fmt: skip
    print_facts(console, facts)
