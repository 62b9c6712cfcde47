"""Sends one command to a site and says that it is done."""

from __future__ import annotations

from outlast.core.clock import SystemClock
from outlast.core.ids import Ids
from outlast.surfaces.cli.client import Api
from outlast.surfaces.cli.connect import call_site
from outlast.surfaces.cli.invocation import Invocation
from outlast.surfaces.http.wire import Accepted


def send(cli: Invocation, method: str, path: str, body: object, done: str) -> None:
    """Send, under a fresh idempotency key so that a lost answer can be asked for again, and print."""
    key = Ids(SystemClock()).new() if method == "POST" else ""

    async def work(api: Api) -> Accepted:
        return await api.send(method, path, body, Accepted, key=key)

    accepted = call_site(cli, work)
    receipt = accepted.receipt
    where = f" On record as entry {receipt.index}." if receipt.count else " Nothing had to change."
    cli.show(accepted, lambda console: console.print(done + where, markup=False))
