"""``outlast demo``: the main job while everything around it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, single

app = single()


@command(app, is_remote=False)
def demo(
    cli: Invocation,
    requests: Annotated[int, typer.Option(help="Documents to sign.")] = 200,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where everything goes, as --data; made, or emptied if it is a demo's. Default: demo-data."
        ),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="A folder of PDFs to sign; default: those that come along.")
    ] = None,
    per_s: Annotated[
        float, typer.Option(help="Requests per second; 0: done in about 20 s.", min=0)
    ] = 0.0,
) -> None:
    """Sign real documents while providers, authorities and the site itself are killed; then verify everything.

    Exit status 0 only if nothing was lost, nothing was done twice, and everything verifies.
    """
    from outlast.gameday.demo import DemoOptions, run_demo

    options = DemoOptions(
        requests=requests,
        data=folder or cli.data or Path("demo-data"),
        json=cli.json,
        examples=examples,
        per_s=per_s,
    )
    raise typer.Exit(run_demo(options))
