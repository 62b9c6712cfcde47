"""Case: bulk append to the log. See `measure`."""

from __future__ import annotations

from bench.append_ours import LINE_BYTES, lines
from bench.load import MARK, Load, Spec, Step
from bench.measure import Figure, Outcome, Verdict
from bench.servers import drive, measured, one_core, scratch
from bench.site import Running, site

GOAL_PER_S = 20_000
PROOF_GOAL_MS = 1.0
ENTRIES = 80_000
BATCH = 500
CALLERS = 4
SECONDS = 3.0
CORE = 0


def appending(running: Running) -> Spec:
    """Batches over HTTP."""
    step = Step(
        path="/v1/log/entries?journal=bench",
        expect=200,
        expect_text=f'"count":{BATCH}',
        headers={
            "Authorization": f"Bearer {running.token}",
            "Content-Type": "application/x-ndjson",
            "Idempotency-Key": MARK,
        },
        body=lines(BATCH),
    )
    return Spec(port=running.port, steps=(step,), connections=CALLERS, seconds=SECONDS)


def measure(rounds: int) -> Outcome:
    """In one process without HTTP, then over HTTP to a site on one core, in turn."""
    inside: list[dict[str, float]] = []
    http: list[Load] = []
    with one_core(CORE):
        for _ in range(rounds):
            inside.append(measured("bench.append_ours", ENTRIES, BATCH))
            with scratch("append") as folder, site(folder) as running:
                http.append(drive(appending(running)))
    per_s = _figure("published, in process", "entries/s", [x["per_s"] for x in inside])
    over_http = _figure("committed, over HTTP", "entries/s", [x.per_s * BATCH for x in http])
    proof = _figure("one inclusion proof", "ms", [x["proof_ms"] for x in inside])
    return Outcome(
        case="append",
        title="Bulk append",
        method=(
            f"Lines of JSON of {LINE_BYTES} bytes, {BATCH} a batch, {CALLERS} batches under way at once, into one journal "
            "on SQLite (WAL, synchronous=FULL). Each line is checked, framed as a log entry "
            f"({inside[0]['entry_bytes']:.0f} bytes then), hashed into the tree and committed; tiles are written and "
            "synced, checkpoints signed with Ed25519 and ML-DSA-44. Everything runs on one core (CPU affinity): in "
            f"process, {ENTRIES:,} entries until the last is under a published checkpoint; over HTTP, `outlast serve` "
            "and the load generator share that core."
        ),
        figures=(
            per_s,
            _figure("committed, in process", "entries/s", [x["committed_per_s"] for x in inside]),
            _figure("CPU per entry, in process", "us", [x["cpu_us"] for x in inside]),
            over_http,
            _figure("a batch over HTTP, p50", "ms", [x.p50_ms for x in http]),
            _figure("a batch over HTTP, p99", "ms", [x.p99_ms for x in http]),
            proof,
        ),
        verdicts=(
            _verdict("entries per second on one core, published", per_s, GOAL_PER_S, at_least=True),
            _verdict("entries per second over HTTP", over_http, GOAL_PER_S, at_least=True),
            _verdict("one inclusion proof", proof, PROOF_GOAL_MS, at_least=False),
        ),
    )


def _verdict(what: str, figure: Figure, goal: float, *, at_least: bool) -> Verdict:
    return Verdict(
        what=what,
        value=figure.median,
        goal=goal,
        at_least=at_least,
        unit=figure.unit,
        spread=(min(figure.rounds), max(figure.rounds)),
    )


def _figure(name: str, unit: str, rounds: list[float]) -> Figure:
    return Figure(name=name, unit=unit, rounds=tuple(rounds))
