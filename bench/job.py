"""Case: the whole signing job, over HTTP. See `measure`."""

from __future__ import annotations

from bench.load import Load, Spec
from bench.measure import Figure, Outcome, ratio
from bench.servers import drive, measured, scratch
from bench.site import Running, site

IN_FLIGHT = 64
SECONDS = 6.0
PEER_SECONDS = 3.0


def whole_job(running: Running, in_flight: int = IN_FLIGHT) -> Spec:
    """Upload a document, ask for its signature, wait until it is signed."""
    return Spec(
        port=running.port,
        steps=(running.upload_step(), running.sign_step()),
        connections=in_flight,
        seconds=SECONDS,
        warm_seconds=2.0,
    )


def measure(rounds: int) -> Outcome:
    """pyHanko's SimpleSigner in a loop on one core, then a new site under load, in turn."""
    peers: list[float] = []
    ours: list[Load] = []
    for _ in range(rounds):
        # what a whole core does: a machine that is busy otherwise must not make the peer look slow
        peers.append(1000 / measured("bench.peers.pyhanko_signer", PEER_SECONDS)["cpu_ms"])
        with scratch("job") as folder, site(folder) as running:
            ours.append(drive(whole_job(running)))
    theirs = Figure(name="pyHanko SimpleSigner, one core", unit="signatures/s", rounds=tuple(peers))
    mine = Figure(
        name="Outlast, whole jobs", unit="signatures/s", rounds=tuple(load.per_s for load in ours)
    )
    p50 = Figure(
        name="Outlast, upload to signed, p50", unit="ms", rounds=tuple(load.p50_ms for load in ours)
    )
    p99 = Figure(
        name="Outlast, upload to signed, p99", unit="ms", rounds=tuple(load.p99_ms for load in ours)
    )
    return Outcome(
        case="job",
        title="The whole signing job",
        method=(
            f"{IN_FLIGHT} connections, each: upload a one-page PDF (checked and prepared in a separate process, "
            "stored encrypted and durable), request a PAdES B-B signature with a P-256 software key, wait for the "
            "answer that it is signed (attempt, signature and revision each durable and in the log, the file "
            "stored encrypted), and again. Server, its workers and the load generator share all cores. The peer "
            "is pyHanko's SimpleSigner alone in a loop, no HTTP, no disk, no log; its rate is that of a core which does "
            "nothing else (the inverse of its CPU time)."
        ),
        figures=(theirs, mine, p50, p99),
        verdicts=(ratio("signatures per second", mine, theirs, goal=5, aim=10),),
    )
