"""The order of providers and its reasons."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outlast.core.routing.choose import (
    Candidate,
    Choice,
    Health,
    RoutePolicy,
    RouteRequest,
    choose,
    region_allowed,
)

A, B, C = Candidate("a", "eu-de-1"), Candidate("b", "eu-fr-1"), Candidate("c", "us-east-1")
ANY = RoutePolicy()
NEW = RouteRequest()
OPEN = Health("open", open_ms=900)


def order(choice: Choice) -> list[tuple[str, str]]:
    """Providers to try with the word of their reason."""
    return [(pick.provider, pick.reason) for pick in choice.order]


def refused(choice: Choice) -> dict[str, str]:
    """Providers not to try with the word of their reason."""
    return {rejection.provider: rejection.reason for rejection in choice.rejected}


def test_class_order_comes_first_then_names() -> None:
    """Preferred ones in the class's order, the others by name."""
    choice = choose([A, B, C], RoutePolicy(preferred=("c", "b")), {}, NEW)
    assert order(choice) == [("c", "preferred"), ("b", "next"), ("a", "unranked")]


def test_policy_and_region_forbid_whatever_else_fails() -> None:
    """A forbidden provider is not tried even when it is the only healthy one."""
    policy = RoutePolicy(regions=("eu",), denied={"b": "class needs a sovereign key"})
    choice = choose([A, B, C], policy, {"a": OPEN}, NEW)
    assert order(choice) == [("a", "last-resort")]
    assert refused(choice) == {"b": "policy", "c": "region"}


def test_region_matches_whole_parts() -> None:
    """``eu`` admits eu-de-1 and not europe-1."""
    assert region_allowed("eu-de-1", ["eu"])
    assert region_allowed("eu", ["eu"])
    assert not region_allowed("europe-1", ["eu"])
    assert not region_allowed("", ["eu"])


def test_ejected_providers_are_left_out_while_another_is_allowed() -> None:
    """An open breaker takes its provider out of the order."""
    choice = choose([A, B], RoutePolicy(preferred=("a", "b")), {"a": OPEN}, NEW)
    assert order(choice) == [("b", "next")]
    assert refused(choice) == {"a": "ejected"}


def test_the_last_allowed_provider_is_still_tried_at_a_bounded_rate() -> None:
    """Sole and ejected: tried, unless its last try was too recent; then the answer says when."""
    assert order(choose([A], ANY, {"a": OPEN}, NEW)) == [("a", "last-resort")]
    waiting = Health("open", open_ms=900, last_resort_ms=120)
    choice = choose([A], ANY, {"a": waiting}, NEW)
    assert choice.order == ()
    assert choice.retry_in_ms == 120


def test_a_burning_provider_comes_after_the_others() -> None:
    """Burning moves the class's favourite back, not out."""
    choice = choose([A, B], RoutePolicy(preferred=("a", "b")), {"a": Health(burning=True)}, NEW)
    assert order(choice) == [("b", "next"), ("a", "burning")]


def test_throttled_and_disabled_are_not_even_a_last_resort() -> None:
    """Retry-After and a person's word hold for the last provider too."""
    health = {"a": Health(throttled_ms=700), "b": Health(disabled="rotating its key")}
    choice = choose([A, B], ANY, health, NEW)
    assert choice.order == ()
    assert refused(choice) == {"a": "throttled", "b": "disabled"}
    assert choice.retry_in_ms == 700


def test_a_due_probe_takes_its_place_in_the_order() -> None:
    """Half-open with a probe due: in its usual place; with none due: out."""
    policy = RoutePolicy(preferred=("a", "b"))
    due = choose([A, B], policy, {"a": Health("half-open", probe_free=True)}, NEW)
    assert order(due) == [("a", "probe"), ("b", "next")]
    busy = choose([A, B], policy, {"a": Health("half-open")}, NEW)
    assert order(busy) == [("b", "next")]
    assert refused(busy) == {"a": "probing"}


def test_tried_in_this_round_and_over_the_retry_budget() -> None:
    """A provider is tried once a round, and in later rounds within its retry budget."""
    request = RouteRequest(tried=frozenset("a"), retrying=frozenset("b"))
    choice = choose([A, B, C], ANY, {"b": Health(retry_ms=300)}, request)
    assert order(choice) == [("c", "unranked")]
    assert refused(choice) == {"a": "already-tried", "b": "retry-budget"}


def test_nothing_allowed_means_waiting_cannot_help() -> None:
    """Denied everywhere: no order and no time to come back."""
    choice = choose([C], RoutePolicy(regions=("eu",)), {}, NEW)
    assert (choice.order, choice.retry_in_ms) == ((), None)


HEALTHS = st.builds(
    Health,
    st.sampled_from(["closed", "open", "half-open"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "by hand"]),
    st.sampled_from([0, 50]),
    st.sampled_from([0, 900]),
    st.sampled_from([0, 100]),
    st.sampled_from([0, 70]),
)
NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.lists(st.builds(Candidate, NAMES, st.sampled_from(["eu-de", "us"])), max_size=6),
    st.builds(
        RoutePolicy,
        preferred=st.lists(NAMES, unique=True).map(tuple),
        regions=st.sampled_from([(), ("eu",)]),
        denied=st.dictionaries(NAMES, st.just("no"), max_size=2),
    ),
    st.dictionaries(NAMES, HEALTHS),
    st.randoms(use_true_random=False),
)
def test_any_choice_is_complete_lawful_and_repeatable(candidates, policy, health, shuffle) -> None:  # type: ignore[no-untyped-def]  # drawn values
    """Every candidate is answered once; nothing forbidden is ordered; input order does not matter; whenever
    somebody allowed could be tried, somebody is."""
    unique = list({c.provider: c for c in reversed(candidates)}.values())
    choice = choose(unique, policy, health, NEW)
    named = [p.provider for p in choice.order] + [r.provider for r in choice.rejected]
    assert sorted(named) == sorted(c.provider for c in unique)
    where = {c.provider: c.region for c in unique}
    for pick in choice.order:
        view = health.get(pick.provider, Health())
        assert pick.provider not in policy.denied
        assert not policy.regions or region_allowed(where[pick.provider], policy.regions)
        assert not view.disabled
        assert not view.throttled_ms
    possible = [
        c.provider
        for c in unique
        if c.provider not in policy.denied
        and (not policy.regions or region_allowed(c.region, policy.regions))
        and not health.get(c.provider, Health()).disabled
        and not health.get(c.provider, Health()).throttled_ms
    ]
    if possible and not choice.order:
        assert all(health[p].state != "closed" and health[p].last_resort_ms for p in possible)
        assert choice.retry_in_ms is not None
    shuffled = list(unique)
    shuffle.shuffle(shuffled)
    assert choose(shuffled, policy, health, NEW).order == choice.order
