"""A site as a process: listening, telling commands where it is, and ending in good order.

Guarantees: nothing is printed as ready before it takes connections; on SIGTERM and SIGINT it takes no more, lets
requests under way end, revokes its token, and closes the store after the last flush; if one of the site's loops dies,
the process ends with the reason and a status other than 0, rather than going on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.markup import escape

from outlast.core.access import KIND as KEY_KIND
from outlast.core.access import SCOPES, SITE_TENANT, ApiKey
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.surfaces.cli.endpoint import TITLE, Endpoint, remove_endpoint, write_endpoint
from outlast.surfaces.cli.hosting import options
from outlast.surfaces.cli.invocation import Invocation
from outlast.surfaces.http.server import BACKLOG, HttpServer, build_server
from outlast.wiring.logs import log_to_stream
from outlast.wiring.nodes import known_name
from outlast.wiring.site import DEFAULT_TENANT, Site, open_site, run_site
from outlast.wiring.telemetry import node_name

log = logging.getLogger("outlast.serve")

ACTOR = "outlast serve"
FIRST_KEY_TITLE = "first administrator"
KEYS_LOOKED_AT = 10_000
"""Active API keys looked through at start."""


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen, as asked for."""

    host: str
    port: int
    uds: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    is_plain_allowed: bool


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What a start says. ``token`` is a first administrator's, None where there are API keys already."""

    url: str
    token: str | None
    site: str
    mode: str
    reasons: tuple[str, ...]
    data: str
    endpoint: str
    log_keys: tuple[str, ...]


def run(cli: Invocation, wish: Listen) -> None:
    """Serve until told to stop."""
    config = cli.config
    _log_as(
        cli,
        known_name(config.site.node, config.data, is_shared=bool(config.store.dsn_file)),
    )
    check(wish)
    with contextlib.closing(listen(wish)) as listener:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(cli, wish, listener))
        finally:
            if wish.uds is not None:
                wish.uds.unlink(missing_ok=True)


def _log_as(cli: Invocation, node: str) -> None:
    """Log lines from now on, under the node's own name where it has one."""
    telemetry = cli.config.telemetry
    log_to_stream(telemetry.log, telemetry.log_level, cli.config.site.name, node or node_name())


def check(wish: Listen) -> None:
    """Raise Refused ``plain-http-exposed``, ``tls-incomplete``, ``tls-key-exposed`` for what is not safe."""
    if (wish.tls_cert is None) != (wish.tls_key is None):
        raise Refused("tls-incomplete", "--tls-cert and --tls-key go together")
    if wish.tls_key is not None:
        try:
            mode = wish.tls_key.stat().st_mode
        except OSError as error:
            raise Refused("tls-incomplete", f"{wish.tls_key}: {error.strerror}") from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Refused(
                "tls-key-exposed",
                f"{wish.tls_key} can be read by other users",
                hint=f"chmod 600 {wish.tls_key}",
            )
    if wish.uds or wish.tls_cert or wish.is_plain_allowed or _is_loopback(wish.host):
        return
    raise Refused(
        "plain-http-exposed",
        f"{wish.host} can be reached from other machines, and without TLS tokens can be read on the way",
        hint="Give --tls-cert and --tls-key; or --insecure-plain-http behind a proxy that speaks TLS.",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(wish: Listen) -> socket.socket:
    """An open socket, before anything else is done. Raises Refused ``address-unusable``, Unavailable
    ``address-in-use``."""
    try:
        if wish.uds is not None:
            return _unix_socket(wish.uds)
        family, kind, protocol, _, address = socket.getaddrinfo(
            wish.host, wish.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(wish, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _unusable(wish, error) from error
    return listener


def _unix_socket(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _unusable(wish: Listen, error: OSError) -> Refused | Unavailable:
    where = str(wish.uds) if wish.uds else f"{wish.host}:{wish.port}"
    why = error.strerror or str(error)
    if isinstance(error, OSError) and "in use" in why:
        return Unavailable(
            "address-in-use",
            f"something listens on {where} already",
            hint="Another site? `outlast status` tells. --port 0 takes a free port.",
        )
    return Refused("address-unusable", f"cannot listen on {where}: {why}")


async def _serve(cli: Invocation, wish: Listen, listener: socket.socket) -> None:
    async with open_site(cli.config) as site, _joined(site), asyncio.TaskGroup() as group:
        if site.follower is not None:
            _log_as(cli, site.nodes.node)  # made just now, at a first start
        await site.publisher.compare()  # a store that is not the log's accepts nothing
        loops = group.create_task(run_site(site), name="site")
        server = _server(site, wish)
        serving = group.create_task(server.serve(sockets=[listener]), name="http")
        _on_signals(server, site)
        _calm_collector()
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        key_id, endpoint = await _announce(cli, site, wish, listener)
        try:
            await serving
        finally:
            remove_endpoint(cli.config.data, os.getpid())
        if not await site.drain():
            log.warning("jobs still run; their leases go back and they run again elsewhere")
        await _revoked(site, key_id, f"{endpoint.url} stopped")
        loops.cancel()
    if not cli.json:
        cli.note("Stopped.")


@contextlib.asynccontextmanager
async def _joined(site: Site) -> AsyncIterator[None]:
    """The process counts among the site's nodes."""
    await site.nodes.join()
    try:
        yield
    finally:
        await site.nodes.leave()


async def _revoked(site: Site, key_id: str, reason: str) -> None:
    """Revoke the process's own token; where that cannot be written now, the next start does."""
    try:
        await site.access.revoke(by=_actor(site), key_id=key_id, reason=reason)
    except OutlastError as error:
        log.warning("the token of this process is not revoked: %s", error)


def _actor(site: Site) -> str:
    """Who makes and revokes a process's tokens: on a shared site each node its own."""
    return f"{ACTOR} on {site.nodes.node}" if site.follower is not None else ACTOR


def _calm_collector() -> None:
    """What is there now stays until the end: do not look through it again and again (7 % of accepts)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _server(site: Site, wish: Listen) -> HttpServer:
    server = build_server(site, options=options(site.config))
    if wish.tls_cert is not None and wish.tls_key is not None:
        server.config.ssl_certfile = str(wish.tls_cert)
        server.config.ssl_keyfile = str(wish.tls_key)
    # uvicorn would raise a signal again once it has stopped, and so end the process before the site is closed
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # no generator needed
    return server


def _on_signals(server: HttpServer, site: Site) -> None:
    def stop() -> None:
        site.nodes.is_stopping = True
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _announce(
    cli: Invocation, site: Site, wish: Listen, listener: socket.socket
) -> tuple[str, Endpoint]:
    """Make the process's token and, where there is no API key at all, an administrator's; say that all is ready."""
    has_keys = await _revoke_stale(site)
    token = None if has_keys else await _api_key(site, FIRST_KEY_TITLE)
    own = await _api_key(site, TITLE)
    endpoint = Endpoint(
        url=_url(wish, listener),
        token=own[1],
        pid=os.getpid(),
        uds=str(wish.uds.absolute()) if wish.uds else "",
        ca_file=str(wish.tls_cert.absolute()) if wish.tls_cert else "",
    )
    write_endpoint(cli.config.data, endpoint)
    started = Started(
        url=endpoint.uds or endpoint.url,
        token=token[1] if token else None,
        site=site.name,
        mode=site.watch.mode.label,
        reasons=site.watch.mode.reasons,
        data=str(cli.config.data),
        endpoint=str(cli.config.data / "run" / "endpoint.json"),
        log_keys=site.log_vkeys,
    )
    cli.show(started, lambda console: _print_started(console, started))
    sys.stdout.flush()
    if wish.is_plain_allowed and not wish.tls_cert and not _is_loopback(wish.host):
        cli.note("Warning: plain HTTP beyond this machine; tokens can be read on the way.")
    return own[0], endpoint


async def _api_key(site: Site, title: str) -> tuple[str, str]:
    made = await site.access.create(
        by=_actor(site), tenant=DEFAULT_TENANT, scopes=SCOPES, title=title
    )
    assert made.token is not None, "made just now"
    return made.id, made.token


async def _revoke_stale(site: Site) -> bool:
    """Revoke the tokens that earlier processes left behind; whether there are other keys that still open."""
    found = await site.store.streams(SITE_TENANT, KEY_KIND, label="active", limit=KEYS_LOOKED_AT)
    living = {f"{ACTOR} on {n.name}" for n in await site.nodes.view() if n.state == "up"}
    living -= {_actor(site)}
    others = False
    for item in found:
        key: ApiKey = site.deciders.decode_state(KEY_KIND, item.row.state)
        if key.title == TITLE and key.created_by.startswith(ACTOR):
            if key.created_by in living:
                continue  # another node's
            reason = "its process ended without revoking it"
            await site.access.revoke(by=_actor(site), key_id=item.id, reason=reason)
        elif not key.expires_ms or key.expires_ms > site.clock.now_ms():
            others = True
    return others


def _url(wish: Listen, listener: socket.socket) -> str:
    if wish.uds is not None:
        return "http://localhost"
    host, port = listener.getsockname()[:2]
    address = ip_address(host)
    if address.is_unspecified:
        host = "::1" if address.version == 6 else "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if wish.tls_cert else 'http'}://{shown}:{port}"


def _print_started(console: Console, started: Started) -> None:
    lines = [
        f"[bold]Outlast is running[/bold]: site {escape(started.site)}, mode {started.mode}",
        f"  address  {escape(started.url)}",
        f"  data     {escape(started.data)}",
        f"  log key  {escape(started.log_keys[0])}",
    ]
    if started.mode != "normal":
        lines[1:1] = [f"           {escape(reason)}" for reason in started.reasons]
    if started.token is not None:
        lines += [
            "",
            f"  token    {escape(started.token)}",
            "  An administrator's, shown this once. `outlast api-keys create` makes others.",
        ]
    lines += ["", "Commands on this machine find it by themselves. Ctrl-C stops it."]
    console.print("\n".join(lines), soft_wrap=True)
