"""``outlast verify``: check signed files and evidence, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, single

app = single()


@command(app, is_remote=False)
def verify(
    cli: Invocation,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="PDFs, detached signatures (.p7s), evidence bundles (.zip), log proofs"
            " (.tlog-proof); or folders of them.",
            show_default=False,
        ),
    ],
    trust: Annotated[
        list[Path] | None,
        typer.Option(help="Root certificates that signers must lead to (PEM or DER). Repeatable."),
    ] = None,
    tsa_trust: Annotated[
        list[Path] | None,
        typer.Option(help="The same for timestamp authorities; default: those of --trust."),
    ] = None,
    log_key: Annotated[
        list[str] | None,
        typer.Option(help="The log's public key, or a file of such keys. Repeatable."),
    ] = None,
    content: Annotated[
        Path | None,
        typer.Option(help="The file that a .p7s signs; default: its name without .p7s."),
    ] = None,
    entry: Annotated[
        Path | None, typer.Option(help="The log entry that a .tlog-proof is about.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Count everything that is not valid as failed.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each check, also for several files.")
    ] = False,
) -> None:
    """Check files without a network and without a site. Each check passes, fails, or stays open (?).

    Keys and roots that you do not pin are taken from the file itself and reported as open: the file then fits
    together, but nothing says who made it. Pin the log with --log-key, signers with --trust.

    Exit status 0: nothing is wrong. 1: something is, or (--strict) stays open.
    """
    from outlast.surfaces.cli.verifying import Pins, load_pins, run

    pins: Pins = load_pins(trust or [], tsa_trust or [], log_key or [])
    run(cli, paths, pins, content=content, entry=entry, is_strict=strict, is_verbose=verbose)
