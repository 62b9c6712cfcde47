"""From where on claims look for due jobs: never past one that is due, and not at the beginning each time."""

from __future__ import annotations

import msgspec
import pytest

from outlast.core.store.port import ClaimAsk, JobRow, JobState
from outlast.core.store.postgres.floors import LOWEST, LOWEST_LEASE, MARGIN_MS, SWEEP_S, Floors

NOW_MS = 1_000_000
ASK = ClaimAsk(("a", "b"), 10, NOW_MS)
BEGINNING = (LOWEST, LOWEST_LEASE)


def job(state: JobState, at_ms: int) -> JobRow:
    """A job that is due, or whose lease ends, at a time."""
    row = JobRow(1, "t", "a", "s/1", b"", "ready", at_ms, 0, "", 0, 0, 0, 0, "")
    return msgspec.structs.replace(row, state=state, lease_until_ms=at_ms)


def learned(*rows: JobRow) -> Floors:
    """Floors after a look from the beginning at second 0."""
    floors = Floors()
    assert floors.of([ASK], 0.0) == BEGINNING
    floors.learn([ASK], [rows], 0.0)
    return floors


def test_the_next_claim_begins_a_margin_before_what_was_found() -> None:
    """The oldest due job and the oldest lease; where there is none, now."""
    assert learned().of([ASK], 0.1) == (NOW_MS - MARGIN_MS,) * 2
    floors = learned(job("ready", 70_000), job("ready", 80_000), job("leased", 90_000))
    assert floors.of([ASK], 0.1) == (70_000 - MARGIN_MS, 90_000 - MARGIN_MS)
    assert learned(job("leased", 10)).of([ASK], 0.1)[1] == LOWEST_LEASE


def test_it_begins_at_the_beginning_again() -> None:
    """After a second; for other kinds of job; when this node makes something due before the floor."""
    assert learned().of([ASK], SWEEP_S) == BEGINNING
    assert learned().of([ASK, ASK._replace(kinds=("a",))], 0.1) == BEGINNING
    below = NOW_MS - MARGIN_MS - 1
    states: tuple[JobState, ...] = ("ready", "leased")
    for state in states:
        floors = learned()
        floors.wrote([job(state, NOW_MS)])
        assert floors.of([ASK], 0.1) != BEGINNING
        floors.wrote([job(state, below)])
        assert floors.of([ASK], 0.1) == BEGINNING


def test_a_look_from_the_floors_teaches_nothing() -> None:
    """Only what was seen from the beginning says what lies before; so does nothing that asks for several sets of kinds."""
    floors = learned(job("ready", 500_000))
    floors.of([ASK], 0.5)
    floors.learn([ASK], [[]], 0.5)
    assert floors.of([ASK], SWEEP_S - 0.01) == (500_000 - MARGIN_MS, NOW_MS - MARGIN_MS)
    assert floors.of([ASK], SWEEP_S) == BEGINNING
    floors.learn([ASK, ASK._replace(kinds=("c",))], [[], []], 1.0)
    assert floors.of([ASK], 1.1) == BEGINNING


@pytest.mark.parametrize("state", ["dead", "parked", "done"])
def test_what_is_not_claimed_moves_no_floor(state: JobState) -> None:
    """Old jobs that end are no reason to begin again."""
    floors = learned()
    floors.wrote([job(state, 1)])
    assert floors.of([ASK], 0.1) != BEGINNING
