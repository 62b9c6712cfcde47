"""``python -m outlast.surfaces.tsa CONFIG.toml``: the local authority as a process of its own.

Prints ``listening http://HOST:PORT`` once it takes connections; ends with status 0 on SIGTERM, 2 where it cannot
start.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from outlast.core.errors import OutlastError
from outlast.surfaces.tsa.server import read_tsa_config, serve_tsa


def main(arguments: list[str]) -> int:
    """Run until stopped; the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m outlast.surfaces.tsa CONFIG.toml\n")
        return 2
    try:
        config = read_tsa_config(Path(arguments[0]))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_tsa(config, on_listening=_announce))
    except OutlastError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 2
    return 0


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"listening http://{shown}:{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
