"""``outlast slo``: alert rules and a dashboard from objectives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlast.core.errors import Refused
from outlast.surfaces.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from outlast.operations.slo import Slo

app = group("Alert rules and a dashboard from service level objectives.")

FileArgument = Annotated[Path, typer.Argument(help="Objectives: deploy/observability/slo.toml.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write here instead of standard output.")
]


@command(app, is_remote=False)
def rules(cli: Invocation, file: FileArgument, out: OutOption = None) -> None:
    """Prometheus' recording and alerting rules (YAML)."""
    from outlast.operations.slo import rules_yaml

    _write(rules_yaml(_read(file)), out)


@command(app, is_remote=False)
def dashboard(cli: Invocation, file: FileArgument, out: OutOption = None) -> None:
    """Grafana's dashboard (JSON)."""
    from outlast.operations.dashboard import dashboard_json

    _write(dashboard_json(_read(file)), out)


def _read(file: Path) -> Slo:
    from outlast.operations.slo import MAX_FILE_BYTES, load_slo

    try:
        with file.open("rb") as opened:
            return load_slo(opened.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise Refused("slo-invalid", f"{file}: {error.strerror}") from error


def _write(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text)
    except OSError as error:
        raise Refused(
            "file-unwritable", f"{out}: {error.strerror}", hint="Name another place."
        ) from error
