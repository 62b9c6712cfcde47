"""What a site measures of itself for the metrics, beside what its parts count: how late its event loop is, and when
certificates end.

Certificates are looked for every LOOK_EVERY_S, in the store (signing keys of all tenants that have API keys, MAX_TENANTS
at most) and in the files that the configuration names. By provider, never by key: key names are their callers'.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from outlast.core.access import KIND as API_KEY_KIND
from outlast.core.access import SITE_TENANT, ApiKey
from outlast.core.clock import Clock
from outlast.core.decider import Deciders
from outlast.core.errors import OutlastError
from outlast.core.store.port import Store
from outlast.core.telemetry import Histogram
from outlast.signing.model.key import KIND as KEY_KIND
from outlast.signing.model.key import SigningKey
from outlast.wiring.config import Config, RemoteProvider

log = logging.getLogger("outlast.vitals")

LAG_EVERY_S = 0.25
"""How often the event loop's lag is measured: 4 timers a second cost nothing that can be measured."""
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Bounds of its distribution."""
LOOK_EVERY_S = 300.0
RETRY_S = 30.0
MAX_TENANTS = 1_000
MAX_KEYS = 200
"""Signing keys looked at of one tenant."""
MAX_API_KEYS = 10_000


class Vitals:
    """See the module. ``certificates`` maps (role, provider) to the Unix time of the first end."""

    def __init__(self, config: Config, store: Store, deciders: Deciders, clock: Clock) -> None:
        self._config = config
        self._store = store
        self._deciders = deciders
        self._clock = clock
        self.loop_lag = Histogram(LAG_S)
        self.certificates: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Measure until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure_lag(), name="loop-lag")
            group.create_task(self._keep_looking(), name="certificates")

    async def _measure_lag(self) -> None:
        while True:
            due_s = self._clock.monotonic_s() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.loop_lag.observe(max(0.0, self._clock.monotonic_s() - due_s))

    async def _keep_looking(self) -> None:
        while True:
            pause_s = LOOK_EVERY_S
            try:
                await self.look()
            except OutlastError as error:
                log.warning("cannot look at certificates: %s", error)
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """Find out when certificates end."""
        found: dict[tuple[str, str], float] = {}

        def note(role: str, provider: str, end_s: float) -> None:
            found[role, provider] = min(end_s, found.get((role, provider), end_s))

        for tenant in await self._tenants():
            for item in await self._store.streams(tenant, KEY_KIND, limit=MAX_KEYS):
                key: SigningKey = self._deciders.decode_state(KEY_KIND, item.row.state)
                for binding in key.bindings:
                    if not binding.disabled and binding.provider in self._config.providers:
                        note("signing", binding.provider, binding.not_after_ms / 1000)
        for name, end_s in await asyncio.to_thread(lambda: list(self._files())):
            note("client", name, end_s)
        self.certificates = found

    async def _tenants(self) -> list[str]:
        keys = await self._store.streams(
            SITE_TENANT, API_KEY_KIND, label="active", limit=MAX_API_KEYS
        )
        tenants: dict[str, None] = {"default": None}
        for item in keys:
            key: ApiKey = self._deciders.decode_state(API_KEY_KIND, item.row.state)
            if len(tenants) < MAX_TENANTS:
                tenants[key.tenant] = None
        return list(tenants)

    def _files(self) -> Iterator[tuple[str, float]]:
        for name, provider in self._config.providers.items():
            if not isinstance(provider, RemoteProvider):
                continue
            try:
                pem = Path(provider.certificate_file).read_bytes()
                first, *_ = x509.load_pem_x509_certificates(pem)
            except (OSError, ValueError) as error:
                log.warning("%s: its client certificate cannot be read: %s", name, error)
            else:
                yield name, first.not_valid_after_utc.timestamp()
