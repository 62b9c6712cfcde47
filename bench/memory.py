"""Case: the memory of a site through 10,000 signed documents. See `measure`."""

from __future__ import annotations

import threading

import msgspec

from bench.job import whole_job
from bench.measure import Figure, Outcome, Verdict
from bench.servers import drive, scratch
from bench.site import family, memory_mib, site

REQUESTS = 10_000
IN_FLIGHT = 32
SAMPLE_S = 0.5
GOAL_MB = 200.0


class Peak:
    """The most memory that a process, and it with its children, were seen to have. In MB (10^6 bytes)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.site_rss = 0.0
        self.all_pss = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.sample()

    def sample(self) -> tuple[float, float]:
        """Resident size of the process, proportional size of the whole family."""
        to_mb = 2**20 / 1e6
        total = own = 0.0
        for pid in family(self._pid):
            try:
                pss, rss = memory_mib(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # a worker that ended between listing and reading
            total += pss * to_mb
            own = rss * to_mb if pid == self._pid else own
        self.site_rss = max(self.site_rss, own)
        self.all_pss = max(self.all_pss, total)
        return own, total


def measure(rounds: int) -> Outcome:
    """One run, whatever ``rounds`` says: it is the growth over many requests that counts."""
    with scratch("memory") as folder, site(folder) as running, Peak(running.pid) as peak:
        before, before_all = peak.sample()
        spec = msgspec.structs.replace(whole_job(running, IN_FLIGHT), turns=REQUESTS)
        load = drive(spec)
        after, after_all = peak.sample()

    def one(name: str, value: float) -> Figure:
        return Figure(name=name, unit="MB", rounds=(value,))

    return Outcome(
        case="memory",
        title="Memory",
        method=(
            f"{REQUESTS:,} whole signing jobs, {IN_FLIGHT} in flight ({load.per_s:.0f}/s), sampled every "
            f"{SAMPLE_S} s. Site process: resident set size, shared pages counted in full. With the worker "
            "processes that look into PDFs: proportional set size of all."
        ),
        figures=(
            one("site process, at start", before),
            one("site process, at the end", after),
            one("site process, most", peak.site_rss),
            one("site and workers, at start", before_all),
            one("site and workers, at the end", after_all),
            one("site and workers, most", peak.all_pss),
        ),
        verdicts=(
            Verdict(
                what="site process, most",
                value=peak.site_rss,
                goal=GOAL_MB,
                at_least=False,
                unit="MB",
            ),
            Verdict(
                what="site and workers, most",
                value=peak.all_pss,
                goal=GOAL_MB,
                at_least=False,
                unit="MB",
            ),
        ),
    )
