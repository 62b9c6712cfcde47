"""Case: the CPU one PDF signature costs. See `measure`."""

from __future__ import annotations

from bench.measure import Figure, Outcome, Verdict, ratio
from bench.servers import measured

SECONDS = 2.0
WHOLE_GOAL_MS = 1.5
STEP_GOAL_MS = 0.3


def measure(rounds: int) -> Outcome:
    """pyHanko's SimpleSigner, and Outlast with the document prepared at intake and without, in turn."""
    variants: dict[str, tuple[str, *tuple[object, ...]]] = {
        "pyhanko": ("bench.peers.pyhanko_signer", SECONDS),
        "prepared": ("bench.sign_ours", SECONDS, "prepared"),
        "whole": ("bench.sign_ours", SECONDS, "whole"),
        "key": ("bench.sign_ours", SECONDS / 4, "key"),
    }
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, command in variants.items():
            cpu[name].append(measured(*command)["cpu_ms"])
    peer = Figure(name="pyHanko SimpleSigner", unit="ms CPU", rounds=tuple(cpu["pyhanko"]))
    prepared = Figure(
        name="Outlast, document prepared at intake", unit="ms CPU", rounds=tuple(cpu["prepared"])
    )
    whole = Figure(name="Outlast, preparing included", unit="ms CPU", rounds=tuple(cpu["whole"]))
    key = Figure(name="the key's own signature", unit="ms CPU", rounds=tuple(cpu["key"]))
    beyond = Figure(
        name="Outlast, prepared, beyond the key's own signature",
        unit="ms CPU",
        rounds=tuple(a - b for a, b in zip(cpu["prepared"], cpu["key"], strict=True)),
    )
    return Outcome(
        case="signature",
        title="One PDF signature",
        method=(
            "PAdES B-B of a one-page document with a P-256 software key, wholly in memory, one thread, CPU time "
            "of the process. Outlast also verifies each signature against the certificate's key; pyHanko's "
            "SimpleSigner does not. Every run ends with pyHanko's validator accepting the result. The signing step is "
            "what is left when the document was prepared at intake: fill in, hash, CMS, the key's signature, verifying "
            "that, assemble; the key's own signature is measured alone in the same round and taken off."
        ),
        figures=(peer, prepared, whole, key, beyond),
        verdicts=(
            ratio("CPU per signature, at signing time", peer, prepared, goal=10),
            ratio("CPU per signature, preparing included", peer, whole, goal=10),
            _below("prepare, sign and assemble", whole, WHOLE_GOAL_MS),
            _below("the signing step beyond the key's own signature", beyond, STEP_GOAL_MS),
        ),
        notes=(
            "pyHanko's SimpleSigner loads the private key for each signature and signs twice, the first time to "
            "learn the size; most of the rest is building ASN.1 objects. With the key object kept it needs about "
            "as much; with the size given too, a bit more than half.",
        ),
    )


def _below(what: str, figure: Figure, goal_ms: float) -> Verdict:
    return Verdict(
        what=what,
        value=figure.median,
        goal=goal_ms,
        at_least=False,
        unit=figure.unit,
        spread=(min(figure.rounds), max(figure.rounds)),
    )
