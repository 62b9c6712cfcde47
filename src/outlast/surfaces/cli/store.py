"""``outlast store``: move a site's database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("The site's database: move it.")


@command(app, is_remote=False)
def move(
    cli: Invocation,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="DSN_FILE", help="A private file with the address of an empty database."
        ),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="From [store] dsn_file back to the data folder.")
    ] = False,
    configure: Annotated[
        bool, typer.Option("--configure", help="Change the configuration file accordingly.")
    ] = False,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="Empty a half-filled target first.")
    ] = False,
    cancel: Annotated[
        bool,
        typer.Option("--cancel", help="Undo a move, while no site has started on the target."),
    ] = False,
) -> None:
    """Move a stopped site's database from SQLite to PostgreSQL, or back, and verify it by the log's root.

    Killed or failed in the middle, the same command goes on. The database moved from is kept, and no site starts on it.
    """
    from outlast.core.errors import Refused
    from outlast.surfaces.cli.moving import cancel as undo
    from outlast.surfaces.cli.moving import move as carry

    if (to is None) != back:
        raise Refused("usage", "give either --to DSN_FILE or --back")
    if cancel:
        undo(cli, to)
    else:
        carry(cli, to, start_over=start_over, is_configuring=configure)
