"""``outlast sign``: files in, signed files out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, single

if TYPE_CHECKING:
    from outlast.signing.classes import Format

app = single()

DEFAULT_WAIT_S = 60.0


@command(app)
def sign(
    cli: Invocation,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="What to sign.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the signed file goes; a folder for several."),
    ] = None,
    class_name: Annotated[
        str, typer.Option("--class", help="Document class of the configuration.")
    ] = "default",
    key: Annotated[str, typer.Option(help="Signing key; default: the class's.")] = "",
    reason: Annotated[str, typer.Option(help="Why it is signed; stands in the signature.")] = "",
    name: Annotated[str, typer.Option(help="Who signs; stands in the signature.")] = "",
    location: Annotated[str, typer.Option(help="Where; stands in the signature.")] = "",
    cms: Annotated[
        bool, typer.Option("--cms", help="A detached signature (.p7s), for PDFs too.")
    ] = False,
    evidence: Annotated[
        Path | None,
        typer.Option(help="Where the evidence bundle goes (.zip); a folder for several."),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for each signature.", min=0)
    ] = DEFAULT_WAIT_S,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Sign files: PDFs inside (PAdES), others with a detached signature beside them (.p7s).

    Uses the site that runs over the data folder, or the one that --url names; where none runs, opens the data
    folder itself for as long as it takes, making one if there is none.
    """
    from outlast.surfaces.cli.signing import Wish, plan, print_results, sign_all

    format_: Format | None = "cms" if cms else None
    wish = Wish(
        class_name=class_name,
        key=key,
        reason=reason,
        name=name,
        location=location,
        format=format_,
        wait_s=wait,
    )
    jobs = plan(files, out, evidence, is_cms=cms, force=force)
    print_results(cli, sign_all(cli, jobs, wish))
