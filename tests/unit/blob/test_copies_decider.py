"""What a blob's copies owe: which reports of a bad copy lead to a look at all of them."""

from __future__ import annotations

from outlast.core.replicas.model import (
    Copies,
    CopiesDecider,
    CopyOwed,
    CopySuspected,
    SuspectCopies,
)


def owing(*stores: str) -> Copies:
    """Copies of which some are owed."""
    event = CopyOwed(
        blob="b", stores=stores, held=("near",), reasons=("unreachable",) * len(stores), at_ms=1
    )
    return CopiesDecider().evolve(None, event)


def led_to(state: Copies | None, *missing: str) -> int:
    """How many events a report of missing copies leads to; of a damaged one where none is named."""
    command = SuspectCopies(at_ms=2, blob="b", missing=missing)
    decision = CopiesDecider().decide(command, state)
    assert all(isinstance(event, CopySuspected) for event in decision.events)
    assert len(decision.jobs) == len(decision.events)
    return len(decision.events)


def test_a_copy_that_is_owed_is_missed_by_nobody() -> None:
    """Reads after an outage, before the debts are settled, write nothing; all else is looked at, once."""
    assert led_to(owing("far"), "far") == 0
    assert led_to(owing("far"), "near") == 1
    assert led_to(owing("far"), "near", "far") == 1
    assert led_to(owing("far")) == 1
    assert led_to(None, "far") == 1
    suspected = CopiesDecider().evolve(None, CopySuspected(blob="b", at_ms=1))
    assert led_to(suspected, "far") == 0
