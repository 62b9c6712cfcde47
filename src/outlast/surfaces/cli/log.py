"""``outlast log``: read, prove and check a log's files; put entries of another system's into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group, refuse_overwriting

app = group("The log: show, prove, verify, fsck, append.")

Directory = Annotated[
    Path | None,
    typer.Option("--log", metavar="DIR", help="A copy of a log's folder; default: the site's."),
]
LogKeys = Annotated[
    list[str] | None,
    typer.Option(help="The log's public key, or a file of such keys. Repeatable."),
]


@command(app, is_remote=False)
def show(
    cli: Invocation,
    start: Annotated[
        int | None, typer.Option("--from", help="First entry; default: the last 20.", min=0)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most; 0: all.", min=0)] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as entries are published.")
    ] = False,
    log: Directory = None,
) -> None:
    """Print published entries. With --json: each entry's own bytes, exactly as hashed, one a line."""
    from outlast.surfaces.cli.logbook import log_directory, show_entries

    show_entries(cli, log_directory(cli, log), start, limit, is_following=follow)


@command(app)
def append(
    cli: Invocation,
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="One JSON object a line; -: standard input.")
    ] = "-",
    journal: Annotated[
        str, typer.Option(help="The journal they belong to; a name of your choice.")
    ] = "default",
    batch: Annotated[
        int, typer.Option(help="Lines a request, all recorded or none.", min=1, max=1000)
    ] = 1000,
    from_line: Annotated[int, typer.Option(help="Leave out what is before this line.", min=1)] = 1,
) -> None:
    """Put another system's entries into the log. Interrupted, the same command goes on where it was."""
    from outlast.surfaces.cli.appending import append_file

    append_file(cli, file, journal, batch, from_line)


@command(app, is_remote=False)
def prove(
    cli: Invocation,
    index: Annotated[int, typer.Argument(metavar="INDEX", help="The entry's index.", min=0)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Default: INDEX.tlog-proof; the entry goes beside it."),
    ] = None,
    log: Directory = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write the proof that an entry is in the log (C2SP tlog-proof), and the entry beside it (.json)."""
    from outlast.core.log.proof import SUFFIX
    from outlast.surfaces.cli.logbook import log_directory, write_proof

    target = out or Path(f"{index}{SUFFIX}")
    entry = target.with_suffix(".json")
    for path in (target, entry):
        refuse_overwriting(path, force)
    write_proof(cli, log_directory(cli, log), index, target, entry)


@command(app)
def verify(
    cli: Invocation,
    log_key: LogKeys = None,
    since: Annotated[
        Path | None, typer.Option(help="A checkpoint kept earlier: the log must extend it.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep this checkpoint here, for --since next time.")
    ] = None,
    public: Annotated[
        str, typer.Option(help="URL of a public log, such as https://site.example/log.")
    ] = "",
) -> None:
    """Check a site's whole log over HTTP: every entry, tile, the root, the signatures, and growth since --since."""
    from outlast.surfaces.cli.logcheck import verify_over_http

    verify_over_http(cli, log_key or [], since, save, public)


@command(app, is_remote=False)
def fsck(
    cli: Invocation,
    log: Directory = None,
    log_key: LogKeys = None,
    since: Annotated[
        Path | None, typer.Option(help="A checkpoint kept earlier: the log must extend it.")
    ] = None,
) -> None:
    """Recompute the whole log from the files of a data folder, or of a copy (--log with --log-key), offline.

    Without --log-key, the site's own keys are used: that finds damage, not a log that somebody replaced.
    """
    from outlast.surfaces.cli.logbook import log_directory
    from outlast.surfaces.cli.logcheck import fsck as check

    check(cli, log_directory(cli, log), log_key or [], since, is_copy=log is not None)
