"""``outlast version``."""

from __future__ import annotations

import platform

import msgspec

from outlast import __version__
from outlast.surfaces.cli.invocation import Invocation, command, single

app = single()


class Version(msgspec.Struct, frozen=True):
    """What is running."""

    outlast: str
    python: str
    platform: str


@command(app, is_remote=False)
def version(cli: Invocation) -> None:
    """Print the version."""
    answer = Version(__version__, platform.python_version(), platform.platform())
    cli.show(answer, lambda c: c.print(f"outlast {answer.outlast} (Python {answer.python})"))
