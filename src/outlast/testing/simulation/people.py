"""The people around a simulated site: they rotate keys, set modes, switch providers off and on, replay dead letters.

What they switch off in the trouble they switch on again when it is over; they never give up before they are answered.
"""

from __future__ import annotations

from outlast.core.access import SITE_TENANT
from outlast.core.commit import Finish, Idempotency, Submission
from outlast.core.decider import Command
from outlast.core.errors import OutlastError, Refused
from outlast.core.store.port import JobRow
from outlast.core.work.job import KIND as JOB_HISTORY
from outlast.core.work.job import MoveJob
from outlast.operations.model import mode as modes
from outlast.operations.model import provider as providers
from outlast.signing.model.key import KIND as KEY
from outlast.signing.model.key import EnrolKey
from outlast.testing.simulation.clients import TENANTS, Crowd
from outlast.testing.simulation.engine import Simulation, Sleep
from outlast.testing.simulation.parts import GENERATIONS, binding_of
from outlast.testing.simulation.site import Site

OPERATOR_ROUND_MS = 2_000
"""How often a person looks for dead letters once the trouble is over."""
MODES: tuple[modes.Mode, ...] = ("read-only", "isolated", "isolated", "degraded", "normal")
"""What people set by hand."""


class People:
    """Everybody who operates the site of a seed. ``busy`` counts what they have begun and not ended."""

    def __init__(self, site: Site, crowd: Crowd, keys: tuple[str, ...]) -> None:
        self._site = site
        self._crowd = crowd
        self._keys = keys
        self._sim: Simulation = site.sim
        self._generations: dict[tuple[str, str, str], int] = {}
        self._switched: set[str] = set()
        self._acts = 0
        self.busy = 0

    async def rotate(self) -> None:
        """Enrol a provider's next key and certificate, while signing goes on."""
        rng = self._sim.rng
        provider = rng.choice(sorted(self._site.providers))
        of = (rng.choice(TENANTS), rng.choice(self._keys), provider)
        generation = self._generations.get(of, 0) + 1
        if generation == GENERATIONS:
            return
        self._generations[of] = generation
        tenant, name, _ = of
        enrol = EnrolKey(at_ms=0, binding=binding_of(provider, name, generation))
        await self._say(tenant, KEY, name, enrol)

    async def set_mode(self) -> None:
        """Set the mode by hand, and some time later hand it back to the rule."""
        mode = self._sim.rng.choice(MODES)
        self._sim.note(f"somebody sets the mode to {mode}")
        order = modes.SetMode(at_ms=0, mode=mode, reason="to be seen", actor="bob")
        await self._say(SITE_TENANT, modes.KIND, modes.STREAM, order)
        self._site.checks.reachable("mode set by hand")
        await Sleep(self._sim, self._sim.between(300, 4_000))
        release = modes.ReleaseMode(at_ms=0, reason="seen", actor="bob", observed=None)
        await self._say(SITE_TENANT, modes.KIND, modes.STREAM, release)

    async def switch(self) -> None:
        """Take a provider or authority out of use, and some time later put it back."""
        names = sorted({*self._site.providers, *self._site.authorities} - self._switched)
        if not names:
            return
        name = self._sim.rng.choice(names)
        self._switched.add(name)
        self._sim.note(f"somebody switches {name} off")
        off = providers.DisableProvider(at_ms=0, provider=name, reason="smoke", actor="bob")
        await self._say(SITE_TENANT, providers.KIND, name, off)
        self._site.checks.reachable("provider switched off by hand")
        await Sleep(self._sim, self._sim.between(300, 4_000))
        on = providers.EnableProvider(at_ms=0, provider=name, reason="no smoke", actor="bob")
        await self._say(SITE_TENANT, providers.KIND, name, on)
        self._site.checks.reachable("provider switched on again")
        self._switched.discard(name)

    async def replay_dead(self) -> None:
        """Once all is well again: replay every dead letter, until there are none."""
        while True:
            await Sleep(self._sim, OPERATOR_ROUND_MS)
            for job in list(self._site.store.disk.jobs.values()):
                if job.state == "dead":
                    try:
                        await self._replay(job)
                    except OutlastError as error:
                        self._sim.note(f"operator, job {job.id}: {error.code}; once more later")

    async def _replay(self, job: JobRow) -> None:
        command = MoveJob(at_ms=0, kind=job.kind, action="replay", reason="all is well again")
        ready = Finish(job=job.id, lease=job.lease, expect="dead", state="ready")
        await self._crowd.call(
            Submission(
                tenant=job.tenant,
                actor="operator",
                kind=JOB_HISTORY,
                stream=str(job.id),
                command=command,
                finish=ready,
            )
        )
        self._site.checks.reachable("job replayed by hand")

    async def _say(self, tenant: str, kind: str, stream: str, command: Command) -> None:
        """Until it is answered. Refused is an answer: what was asked twice was done the first time."""
        self.busy += 1
        self._acts += 1
        key = f"act-{self._acts}"  # or a repetition that was held up would undo what came after it
        try:
            await self._crowd.insist(
                Submission(
                    tenant=tenant,
                    actor="bob",
                    kind=kind,
                    stream=stream,
                    command=command,
                    idempotency=Idempotency(key, key.encode()),
                )
            )
        except Refused as error:
            self._site.checks.always(error.code == "mode-not-held", str(error))
        finally:
            self.busy -= 1
