"""``outlast serve``: run a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, single

app = single()


@command(app, is_remote=False)
def serve(
    cli: Invocation,
    host: Annotated[
        str, typer.Option(help="Address to listen on; default: the configuration's.")
    ] = "",
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one.", min=0, max=65_535)
    ] = None,
    uds: Annotated[
        Path | None, typer.Option(help="Listen on this Unix socket instead, for one's own user.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate chain: serve HTTPS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM, mode 0600).")] = None,
    insecure_plain_http: Annotated[
        bool,
        typer.Option(
            "--insecure-plain-http",
            help="Listen beyond this machine without TLS: tokens and documents can be read on the way.",
        ),
    ] = False,
) -> None:
    """Run a site until SIGTERM or Ctrl-C.

    Without configuration: on 127.0.0.1:8470, data in ./outlast-data, with a certificate authority and a signing key
    of its own. The first start prints an administrator's token, once.
    """
    from outlast.surfaces.cli.running import Listen, run

    wish = Listen(
        host=host or cli.config.http.host,
        port=cli.config.http.port if port is None else port,
        uds=uds,
        tls_cert=tls_cert,
        tls_key=tls_key,
        is_plain_allowed=insecure_plain_http,
    )
    run(cli, wish)
