"""``outlast tsa serve``: a local timestamp authority, not a qualified one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("Run a local timestamp authority, for tests and demos. It is not a qualified one.")


@command(app, is_remote=False)
def serve(
    cli: Invocation,
    config_file: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The authority's own configuration.")
    ],
) -> None:
    """Serve until SIGTERM. Prints `listening http://HOST:PORT` once it takes connections."""
    from outlast.surfaces.tsa.__main__ import main

    raise typer.Exit(main([str(config_file)]))
