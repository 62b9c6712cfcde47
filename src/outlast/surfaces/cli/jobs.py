"""``outlast jobs``: work that waits, runs, or was given up."""

from __future__ import annotations

from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("Work and dead letters: list, show, replay, park, discard; kinds, pause, resume.")

PATH = "/v1/jobs"
KINDS_PATH = "/v1/job-kinds"
KindName = Annotated[str, typer.Argument(metavar="KIND", help="As `outlast jobs kinds` lists it.")]
JobId = Annotated[int, typer.Argument(metavar="ID", help="A job's id.", min=0)]
Reason = Annotated[str, typer.Option(help="Goes on record.", show_default=False)]


@command(app, "list")
def list_(
    cli: Invocation,
    state: Annotated[str, typer.Option(help="ready, leased, done, dead or parked.")] = "",
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 100,
    cursor: Annotated[str, typer.Option(help="Where the page before this one ended.")] = "",
) -> None:
    """Jobs, oldest first."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.tables import print_table, short_time
    from outlast.surfaces.http.wire import JobPage

    query = {"state": state, "limit": str(limit), "cursor": cursor}
    page = call_site(cli, lambda api: api.get(PATH, JobPage, query=query))
    rows = [
        (j.id, j.kind, j.state, j.attempts, short_time(j.run_at), j.stream, j.error)
        for j in page.items
    ]
    headings = ("id", "kind", "state", "attempts", "runs at (UTC)", "for", "error")
    cli.show(page, lambda console: print_table(console, headings, rows, "No jobs."))
    if page.next:
        cli.note(f"More: --cursor {page.next}")


@command(app)
def show(cli: Invocation, job_id: JobId) -> None:
    """A job."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.tables import print_facts
    from outlast.surfaces.http.wire import JobView

    view = call_site(cli, lambda api: api.get(f"{PATH}/{job_id}", JobView))
    facts = [(name, getattr(view, name)) for name in JobView.__struct_fields__]
    cli.show(view, lambda console: print_facts(console, facts))


@command(app)
def replay(cli: Invocation, job_id: JobId, reason: Reason) -> None:
    """Run a dead or parked job again, with no attempts behind it."""
    _move(cli, job_id, "replay", reason, "runs again")


@command(app)
def park(cli: Invocation, job_id: JobId, reason: Reason) -> None:
    """Let a job wait until somebody replays it."""
    _move(cli, job_id, "park", reason, "waits until it is replayed")


@command(app)
def discard(cli: Invocation, job_id: JobId, reason: Reason) -> None:
    """Never run a job again."""
    _move(cli, job_id, "discard", reason, "will not run again")


@command(app)
def kinds(cli: Invocation) -> None:
    """Kinds of job, and which of them are paused."""
    from outlast.surfaces.cli.connect import call_site
    from outlast.surfaces.cli.tables import print_table, short_time
    from outlast.surfaces.http.wire import JobKinds

    page = call_site(cli, lambda api: api.get(KINDS_PATH, JobKinds))
    rows = [
        (
            k.kind,
            "paused" if k.paused else "runs",
            short_time(k.since) if k.since else "",
            k.actor,
            k.reason,
        )
        for k in page.items
    ]
    headings = ("kind", "state", "since (UTC)", "by", "reason")
    cli.show(page, lambda console: print_table(console, headings, rows, "No kinds."))


@command(app)
def pause(cli: Invocation, kind: KindName, reason: Reason) -> None:
    """Start no more jobs of a kind, on any node, until somebody resumes it."""
    _switch(cli, kind, "pause", reason, f"No more {kind} jobs are started.")


@command(app)
def resume(cli: Invocation, kind: KindName, reason: Reason) -> None:
    """Start jobs of a kind again."""
    _switch(cli, kind, "resume", reason, f"{kind} jobs are started again.")


def _switch(cli: Invocation, kind: str, action: str, reason: str, done: str) -> None:
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import ReasonAsk

    send(cli, "POST", f"{KINDS_PATH}/{kind}:{action}", ReasonAsk(reason=reason), done)


def _move(cli: Invocation, job_id: int, action: str, reason: str, done: str) -> None:
    from outlast.surfaces.cli.commanding import send
    from outlast.surfaces.http.wire import ReasonAsk

    path = f"{PATH}/{job_id}:{action}"
    send(cli, "POST", path, ReasonAsk(reason=reason), f"Job {job_id} {done}.")
