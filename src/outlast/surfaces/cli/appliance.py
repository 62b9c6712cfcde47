"""``outlast signer serve``: a signing appliance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("Run a signing appliance: keys behind mutual TLS.")


@command(app, is_remote=False)
def serve(
    cli: Invocation,
    config_file: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The appliance's own configuration.")
    ],
) -> None:
    """Serve until SIGTERM. Prints `listening https://HOST:PORT` once it takes connections."""
    from outlast.surfaces.signer.__main__ import main

    raise typer.Exit(main([str(config_file)]))
