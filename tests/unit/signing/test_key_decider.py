"""SigningKey: bindings are enrolled, rotated, disabled and enabled."""

from __future__ import annotations

from typing import Any

import msgspec

from outlast.core.decider import Event
from outlast.signing.model.key import (
    MAX_BINDINGS,
    MAX_RETIRED,
    Binding,
    DisableKey,
    EnableKey,
    EnrolKey,
    KeyDecider,
    KeyDisabled,
    KeyEnabled,
    KeyEnrolled,
)
from outlast.testing.given import Given
from outlast.testing.given import given as given_events


def binding(provider: str = "hsm", serial: int = 1, **fields: Any) -> Binding:
    """A key at a provider; ``serial`` tells certificates apart."""
    return Binding(
        provider=provider,
        key_ref="k",
        algorithm="ed25519",
        spki=b"spki",
        chain=(b"cert %d" % serial, b"ca"),
        fingerprint=f"{provider}-{serial}",
        subject="CN=x",
        not_before_ms=1,
        not_after_ms=2,
        **fields,
    )


def enrol(provider: str = "hsm", serial: int = 1) -> EnrolKey:
    """Ask to enrol."""
    return EnrolKey(at_ms=1, binding=binding(provider, serial))


def enrolled(provider: str = "hsm", serial: int = 1) -> KeyEnrolled:
    """A binding on record."""
    return KeyEnrolled(binding=binding(provider, serial))


def given(*events: Event) -> Given:
    """A key with these events behind it."""
    return given_events(KeyDecider(), *events)


def test_enrolment_binds_a_provider() -> None:
    """Each provider has its own key and certificate under the one name."""
    given().when(enrol()).then(enrolled())
    state = given(enrolled()).when(enrol("aws")).then(enrolled("aws"))
    assert [b.provider for b in state.bindings] == ["hsm", "aws"]
    assert (state.label, state.at("aws"), state.at("none")) == ("enabled", binding("aws"), None)


def test_enrolling_the_same_again_changes_nothing() -> None:
    """Enrolment may be repeated."""
    given(enrolled()).when(enrol()).nothing()


def test_rotation_replaces_and_remembers() -> None:
    """A new certificate takes the old one's place; the old one can still be found by its fingerprint."""
    state = given(enrolled(), enrolled("aws")).when(enrol(serial=2)).then(enrolled(serial=2))
    assert [b.fingerprint for b in state.bindings] == ["hsm-2", "aws-1"]
    assert state.by_fingerprint("hsm-1") == binding(serial=1)
    assert state.by_fingerprint("hsm-2") == binding(serial=2)
    assert state.by_fingerprint("hsm-3") is None


def test_only_so_many_rotations_are_remembered() -> None:
    """The state does not grow without end."""
    state = given(*[enrolled(serial=n) for n in range(MAX_RETIRED + 5)]).state
    assert len(state.retired) == MAX_RETIRED
    assert state.by_fingerprint("hsm-3") is None
    assert state.by_fingerprint(f"hsm-{MAX_RETIRED + 3}") is not None


def test_bindings_are_bounded() -> None:
    """Beyond MAX_BINDINGS another provider is refused, rotating a known one is not."""
    full = given(*[enrolled(f"p{n}") for n in range(MAX_BINDINGS)])
    full.when(enrol("one-more")).refused("too-many-bindings")
    full.when(enrol("p0", 2)).then(enrolled("p0", 2))


def test_one_binding_is_disabled_and_enabled() -> None:
    """A disabled binding leaves the others in use."""
    disable = DisableKey(at_ms=1, provider="hsm", reason="lost")
    off = KeyDisabled(provider="hsm", reason="lost")
    state = given(enrolled(), enrolled("aws")).when(disable).then(off)
    assert [b.disabled for b in state.bindings] == [True, False]
    assert state.label == "enabled"
    enable = EnableKey(at_ms=1, provider="hsm", reason="found")
    state = given(enrolled(), off).when(enable).then(KeyEnabled(provider="hsm", reason="found"))
    assert (state.label, state.bindings[0].disabled) == ("enabled", False)


def test_all_bindings_are_disabled_at_once() -> None:
    """Without a provider the whole key stops; a rotation of one binding is a decision to use it again."""
    state = given(enrolled(), enrolled("aws")).when(DisableKey(at_ms=1)).then(KeyDisabled())
    assert (state.label, [b.disabled for b in state.bindings]) == ("disabled", [True, True])
    again = given(enrolled(), KeyDisabled()).when(enrol()).then(enrolled())
    assert again.label == "enabled"


def test_nobody_disables_what_is_not_there() -> None:
    """An unknown key or provider is refused."""
    given().when(DisableKey(at_ms=1)).refused("key-not-found")
    given(enrolled()).when(DisableKey(at_ms=1, provider="aws")).refused("key-not-found")
    given(enrolled()).when(EnableKey(at_ms=1, provider="aws")).refused("key-not-found")


def test_disabling_keeps_what_was_retired() -> None:
    """A signature made before rotation and disabling can still be put into its file."""
    state = given(enrolled(), enrolled(serial=2), KeyDisabled()).state
    assert state.by_fingerprint("hsm-1") is not None
    assert msgspec.json.decode(msgspec.json.encode(state), type=type(state)) == state
