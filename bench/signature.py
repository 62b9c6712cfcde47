"""Case: the CPU one PDF signature costs. See `measure`."""

from __future__ import annotations

from bench.measure import Figure, Outcome, ratio
from bench.servers import measured

SECONDS = 2.0


def measure(rounds: int) -> Outcome:
    """pyHanko's SimpleSigner, and Outlast with the document prepared at intake and without, in turn."""
    variants: dict[str, tuple[str, *tuple[object, ...]]] = {
        "pyhanko": ("bench.peers.pyhanko_signer", SECONDS),
        "prepared": ("bench.sign_ours", SECONDS, "prepared"),
        "whole": ("bench.sign_ours", SECONDS, "whole"),
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
    return Outcome(
        case="signature",
        title="One PDF signature",
        method=(
            "PAdES B-B of a one-page document with a P-256 software key, wholly in memory, one thread, CPU time "
            "of the process. Outlast also verifies each signature against the certificate's key; pyHanko's "
            "SimpleSigner does not. Every run ends with pyHanko's validator accepting the result."
        ),
        figures=(peer, prepared, whole),
        verdicts=(
            ratio("CPU per signature, at signing time", peer, prepared, goal=10),
            ratio("CPU per signature, preparing included", peer, whole, goal=10),
        ),
        notes=(
            "pyHanko's SimpleSigner loads the private key for each signature and signs twice, the first time to "
            "learn the size; most of the rest is building ASN.1 objects. With the key object kept it needs about "
            "as much; with the size given too, a bit more than half.",
        ),
    )
