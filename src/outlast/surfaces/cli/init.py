"""``outlast init``: a configuration file to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from outlast.core.errors import Refused
from outlast.surfaces.cli.invocation import (
    CONFIG_FILE,
    Invocation,
    command,
    refuse_overwriting,
    single,
)

app = single()


class Written(msgspec.Struct, frozen=True):
    """The file that was written."""

    path: str


def template() -> str:
    """The commented file: every option, with its default."""
    return resources.files("outlast.surfaces.cli").joinpath("template.toml").read_text("utf-8")


@command(app, is_remote=False)
def init(
    cli: Invocation,
    path: Annotated[Path, typer.Argument(help="File or folder.")] = Path(CONFIG_FILE),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented outlast.toml: every option, with its default."""
    target = path / CONFIG_FILE if path.is_dir() else path
    refuse_overwriting(target, force)
    try:
        target.write_text(template(), "utf-8")
    except OSError as error:
        raise Refused(
            "file-unwritable", f"{target}: {error.strerror}", hint="Name another place."
        ) from error
    cli.show(
        Written(str(target)),
        lambda c: c.print(f"Wrote {target}. It changes nothing until you remove a # in it."),
    )
