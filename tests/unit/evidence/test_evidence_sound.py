"""Bundles as sites make them, verified: what is proven, what stays open without pins, what wrong pins do."""

from __future__ import annotations

from typing import Any

import pytest

from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.core.log.logkey import LogKey
from outlast.signing.evidence.verify import BundleVerdict, verify_bundle

KINDS = ("pades", "stamped", "settled", "detached")


def judge(made: Any, *, pinned: bool = True, **other: Any) -> BundleVerdict:
    """The verdict with everything pinned, or nothing."""
    pins = {
        "roots": (made.root,) if pinned else (),
        "tsa_roots": (made.tsa_root,) if pinned and made.tsa_root else (),
        "log_keys": made.log_keys if pinned else (),
        "now_ms": SystemClock().now_ms(),
    }
    return verify_bundle(made.data, **{**pins, **other})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_site_s_bundle_is_valid_with_everything_pinned(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """What a site hands out verifies wholly, for each form of signature and timestamp."""
    verdict = judge(request.getfixturevalue(kind))
    assert (verdict.verdict, verdict.reason) == ("valid", "")
    assert {c.outcome for c in verdict.checks} == {"pass"}
    assert verdict.log_keys_pinned
    assert verdict.roots_pinned


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_without_pins_only_trust_stays_open(kind: str, request: pytest.FixtureRequest) -> None:
    """Keys and roots taken from the bundle itself are reported as such, and nothing else is."""
    verdict = judge(request.getfixturevalue(kind), pinned=False)
    assert verdict.verdict == "untrusted"
    assert all(c.about_trust for c in verdict.checks if c.outcome != "pass")
    assert {c.name for c in verdict.checks if c.outcome == "unknown"} >= {"log-keys", "trust"}


def test_the_summary_tells_what_the_log_proves(pades: Any) -> None:
    """Request, digests, origin and size are in the verdict; what the log holds encrypted is named as unproven."""
    verdict = judge(pades)
    assert verdict.origin == "outlast.invalid/site"
    assert verdict.log_size >= len([c for c in verdict.checks if c.name == "log-proofs"])
    assert len(verdict.signed_sha256) == 1
    assert (
        verdict.notes == ("title and reference are encrypted in the log: nothing here proves them",)
        or not verdict.notes
    )


def test_another_log_s_keys_fail(pades: Any) -> None:
    """A reader who pinned another log's keys, even of the same name, is not satisfied."""
    stranger = LogKey.generate("outlast.invalid/site")
    verdict = judge(pades, log_keys=stranger.vkeys)
    assert verdict.verdict == "invalid"
    assert {c.name for c in verdict.checks if c.outcome == "fail"} == {"log-keys", "log-proofs"}


def test_both_keys_must_sign_where_both_are_pinned(pades: Any) -> None:
    """Pinning one real key and one that never signed is not satisfied by the real one."""
    stranger = LogKey.generate("outlast.invalid/site")
    mixed = (pades.log_keys[0], stranger.vkeys[1])
    assert judge(pades, log_keys=mixed).verdict == "invalid"
    assert judge(pades, log_keys=pades.log_keys[:1]).verdict == "valid"


@pytest.mark.slow
def test_another_root_fails(pades: Any, stamped: Any) -> None:
    """A root that did not issue the signer's certificate, or the authority's, is no trust."""
    verdict = judge(pades, roots=(stamped.root,))
    assert [c.name for c in verdict.checks if c.outcome == "fail"] == ["trust"]
    verdict = judge(stamped, tsa_roots=(stamped.root,))
    assert {c.name for c in verdict.checks if c.outcome == "fail"} == {"timestamp-trust"}


@pytest.mark.slow
def test_an_authority_s_root_vouches_for_no_signer(stamped: Any) -> None:
    """Pinning signers' root only as a timestamp root, or the other way round, is not enough."""
    swapped = judge(stamped, roots=(stamped.tsa_root,), tsa_roots=(stamped.root,))
    failed = {c.name for c in swapped.checks if c.outcome == "fail"}
    assert failed == {"trust", "timestamp-trust"}


@pytest.mark.slow
def test_an_owed_timestamp_stays_open(owing: Any) -> None:
    """A timestamp that is owed is neither passed over nor failed: it is said until when."""
    verdict = judge(owing)
    (open_,) = (c for c in verdict.checks if c.outcome != "pass")
    assert (open_.name, open_.outcome) == ("timestamp", "unknown")
    assert open_.message.startswith("none yet; owed until ")
    assert verdict.verdict == "indeterminate"


@pytest.mark.slow
def test_a_timestamp_outlives_the_signer_s_certificate(pades: Any, stamped: Any) -> None:
    """Years later the signer's certificate is over: a trusted timestamp from before then still carries the
    signature, and without one it stands no longer."""
    later_ms = SystemClock().now_ms() + 800 * 86_400_000
    assert judge(stamped, now_ms=later_ms).verdict == "valid"
    verdict = judge(pades, now_ms=later_ms)
    assert [c.name for c in verdict.checks if c.outcome == "fail"] == ["trust"]


def test_a_key_that_is_no_key_is_refused(pades: Any) -> None:
    """A caller's own mistake is an error, not a verdict on the bundle."""
    with pytest.raises(Refused) as refused:
        judge(pades, log_keys=("not a key",))
    assert refused.value.code == "vkey-malformed"
