"""SigningKey: who may sign under a name, enrolled beforehand at one or more providers.

    EnrolKey -> KeyEnrolled        a provider's key and certificate are bound to the name
    DisableKey -> KeyDisabled      one binding, or all, may sign no more
    EnableKey -> KeyEnabled

Each binding has its own key and certificate, so failing over to another provider changes both, correctly and on
record. A binding is replaced by enrolling the same provider again (rotation).
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from outlast.core.asymmetric import KeyAlgorithm
from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused

KIND = "signing.key"
MAX_BINDINGS = 32
"""Providers one key name may be enrolled at."""
MAX_RETIRED = 16
"""Replaced bindings that are remembered."""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A key at a provider. ``chain`` are DER certificates, the signer's first; ``spki`` is its public key in
    DER; ``fingerprint`` is the SHA-256 of the signer's certificate in hex; times are Unix ms."""

    provider: str
    key_ref: str
    algorithm: KeyAlgorithm
    spki: bytes
    chain: tuple[bytes, ...]
    fingerprint: str
    subject: str
    not_before_ms: int
    not_after_ms: int
    disabled: bool = False


class KeyEnrolled(Event, frozen=True, kw_only=True):
    """A provider's key was bound to the name."""

    name: ClassVar[str] = "signing.key_enrolled"
    binding: Binding


class KeyDisabled(Event, frozen=True, kw_only=True):
    """A binding (or all: ``provider`` empty) may sign no more."""

    name: ClassVar[str] = "signing.key_disabled"
    provider: str = ""
    reason: str = ""


class KeyEnabled(Event, frozen=True, kw_only=True):
    """A binding (or all) may sign again."""

    name: ClassVar[str] = "signing.key_enabled"
    provider: str = ""
    reason: str = ""


class EnrolKey(Command, frozen=True, kw_only=True):
    """Bind a checked certificate and key."""

    binding: Binding


class DisableKey(Command, frozen=True, kw_only=True):
    """Stop a binding, or all, from signing."""

    provider: str = ""
    reason: str = ""


class EnableKey(Command, frozen=True, kw_only=True):
    """Let a binding, or all, sign again."""

    provider: str = ""
    reason: str = ""


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """A name and its bindings, in order of first enrolment."""

    bindings: tuple[Binding, ...] = ()
    retired: tuple[Binding, ...] = ()
    """Replaced bindings, newest last, MAX_RETIRED at most: a signature obtained before a rotation is still
    put into its file with the certificate it was made for."""

    @property
    def label(self) -> str:
        """``enabled`` while at least one binding may sign."""
        return "enabled" if any(not b.disabled for b in self.bindings) else "disabled"

    def at(self, provider: str) -> Binding | None:
        """The binding at a provider."""
        return next((b for b in self.bindings if b.provider == provider), None)

    def by_fingerprint(self, fingerprint: str) -> Binding | None:
        """The binding, in use or retired, with a certificate."""
        known = (*self.bindings, *self.retired)
        return next((b for b in known if b.fingerprint == fingerprint), None)


class KeyDecider:
    """`Decider` of signing keys."""

    kind = KIND
    state = SigningKey
    events = (KeyEnrolled, KeyDisabled, KeyEnabled)

    def decide(
        self, command: Any, state: SigningKey | None
    ) -> Decision[KeyEnrolled | KeyDisabled | KeyEnabled]:
        """Enrolment is idempotent; disabling what is not there is refused."""
        if isinstance(command, EnrolKey):
            return self._enrol(command, state)
        if state is None:
            raise Refused("key-not-found", "no such signing key", hint="See `outlast keys list`.")
        if command.provider and state.at(command.provider) is None:
            raise Refused("key-not-found", f"the key is not enrolled at {command.provider!r}")
        if isinstance(command, DisableKey):
            return Decision(events=(KeyDisabled(provider=command.provider, reason=command.reason),))
        enable: EnableKey = command
        return Decision(events=(KeyEnabled(provider=enable.provider, reason=enable.reason),))

    def _enrol(self, command: EnrolKey, state: SigningKey | None) -> Decision[Any]:
        bindings = state.bindings if state else ()
        old = state.at(command.binding.provider) if state else None
        if old == command.binding:
            return Decision()
        if old is None and len(bindings) >= MAX_BINDINGS:
            raise Refused("too-many-bindings", f"a key has at most {MAX_BINDINGS} bindings")
        return Decision(events=(KeyEnrolled(binding=command.binding),))

    def evolve(self, state: SigningKey | None, event: Any) -> SigningKey:
        """Bindings after the event."""
        bindings = state.bindings if state else ()
        if isinstance(event, KeyEnrolled):
            new = event.binding
            old = state.at(new.provider) if state else None
            retired = state.retired if state else ()
            if old is None:
                return SigningKey(bindings=(*bindings, new), retired=retired)
            kept = tuple(new if b.provider == new.provider else b for b in bindings)
            return SigningKey(bindings=kept, retired=(*retired, old)[-MAX_RETIRED:])
        disabled = isinstance(event, KeyDisabled)
        return SigningKey(
            retired=state.retired if state else (),
            bindings=tuple(
                msgspec.structs.replace(b, disabled=disabled)
                if event.provider in ("", b.provider)
                else b
                for b in bindings
            ),
        )
