"""Make a site's data folder ready for a benchmark, before it is served.

    python -m bench.prepare outlast.toml     prints {"token": ...}: an API key that may do everything

Where providers are remote ones, the key ``bench`` of each is enrolled as the site's key ``default``, with a
certificate of an authority made here; otherwise the site makes itself a software key when it is opened.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from outlast.core.access import SCOPES
from outlast.core.clock import SystemClock
from outlast.core.pki import make_ca
from outlast.signing.api import Caller
from outlast.wiring.config import RemoteProvider, load_config
from outlast.wiring.embedded import certify
from outlast.wiring.site import DEFAULT_TENANT, Site, open_site

REMOTE_KEY = "bench"
ACTOR = "bench"


async def prepare(config_file: Path) -> str:
    """Enrol, make an API key, and return its token."""
    async with open_site(load_config(config_file)) as site:
        await _enrol_remote(site)
        made = await site.access.create(
            by=ACTOR, tenant=DEFAULT_TENANT, scopes=SCOPES, title="benchmark"
        )
        if made.token is None:
            raise RuntimeError("the API key was made earlier: its token is not shown again")
        return made.token


async def _enrol_remote(site: Site) -> None:
    clock = SystemClock()
    authority = make_ca("Benchmark CA", "ecdsa-p256-sha256", clock)
    for name, provider in site.config.providers.items():
        if isinstance(provider, RemoteProvider):
            info = await site.world.signers[name].describe(REMOTE_KEY)
            chain = certify(authority, info, f"{name} signing", clock)
            await site.signing.enrol_key(
                Caller(DEFAULT_TENANT, ACTOR), "default", name, REMOTE_KEY, chain
            )


if __name__ == "__main__":
    print(json.dumps({"token": asyncio.run(prepare(Path(sys.argv[1])))}))
