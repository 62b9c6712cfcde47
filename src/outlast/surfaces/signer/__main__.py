"""``python -m outlast.surfaces.signer CONFIG``: the appliance as a process of its own.

Prints ``listening https://HOST:PORT`` once it takes connections; ends with status 0 on SIGTERM, 2 where the
configuration is wrong. No secret is ever an argument.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import msgspec
import uvloop

from outlast.core.clock import SystemClock
from outlast.core.errors import OutlastError
from outlast.ports.keys import Signer
from outlast.surfaces.signer.access import ClientRule
from outlast.surfaces.signer.audit import AUDIT_LOGGER
from outlast.surfaces.signer.server import SignerServerConfig, serve_signer
from outlast.wiring.appliance import (
    ApplianceConfig,
    open_appliance_keystore,
    read_appliance_config,
)
from outlast.wiring.logs import log_to_stream
from outlast.wiring.providers import open_keys
from outlast.wiring.telemetry import exporting, node_name


def main(arguments: list[str]) -> int:
    """Run until stopped; the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m outlast.surfaces.signer CONFIG\n")
        return 2
    try:
        run_appliance(read_appliance_config(Path(arguments[0])))
    except OutlastError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return 2
    except OSError as error:
        # ssl.SSLError is one too: a certificate file that does not fit its key
        sys.stderr.write(f"cannot start: {error}\n")
        return 2
    return 0


def run_appliance(config: ApplianceConfig) -> None:
    """Serve as configured until SIGTERM or SIGINT."""
    telemetry = config.telemetry
    log_to_stream(telemetry.log, telemetry.log_level, "", node_name())
    audit_to(config.audit_file)
    signer = open_appliance_keystore(config)
    server = SignerServerConfig(
        certificate_file=config.certificate_file,
        key_file=config.key_file,
        client_ca_file=config.client_ca_file,
        clients=tuple(msgspec.convert(c, ClientRule, from_attributes=True) for c in config.clients),
        host=config.host,
        port=config.port,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        # before it takes connections: whoever comes first would find it slow, and leave it
        runner.run(open_keys(signer))
        runner.run(_serve(config, server, signer))


async def _serve(config: ApplianceConfig, server: SignerServerConfig, signer: Signer) -> None:
    clock = SystemClock()
    async with exporting(config.telemetry, "", clock, os.urandom) as tracer:
        await serve_signer(server, signer, clock, on_listening=_announce, tracer=tracer)


def audit_to(audit_file: Path | None) -> None:
    """Audit lines to their file (appended, a line at a time), or with all others to standard error."""
    audit = logging.getLogger(AUDIT_LOGGER)
    audit.setLevel(logging.INFO)
    if audit_file is not None:
        handler = logging.FileHandler(audit_file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(message)s"))
        audit.addHandler(handler)
        audit.propagate = False


def _announce(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"listening https://{shown}:{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
