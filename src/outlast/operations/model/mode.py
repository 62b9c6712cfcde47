"""Mode: how this site works now, and why.

    AssessMode  -> ModeEntered             by rule, when what is observed asks for another mode
    SetMode     -> ModeEntered             by hand; holds, whatever is observed, until released
    ReleaseMode -> ModeReleased, ModeEntered   back to the rule

    normal      everything works
    degraded    some provider is out, or something is owed: work goes on
    isolated    no timestamp authority and no remote provider answers: local work goes on within policy
    read-only   the disk is nearly full or the log is damaged: what is there is served, nothing new is taken

``assess`` is the rule, pure and total. The worst that applies wins. Nearly full and no longer nearly full are two
thresholds, so the mode does not flutter between them.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.operations.model.reason import stated

KIND = "operations.mode"
STREAM = "site"
"""The stream of the mode: what a person set for the whole site, and what the rule says where a site is one process.
Where several nodes share a site the rule looks at each by itself, and says so in a stream by the node's name."""

Mode = Literal["normal", "degraded", "isolated", "read-only"]
Work = Literal["read", "accept", "local", "remote", "operate"]
"""What a mode may stop: reading; taking new work; work with what this site has itself; work with providers
elsewhere; operating."""

RETRY_AFTER_S = 30.0
"""When to come back to a site that refuses because of its mode: a person or the rule must act first."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the rule looks at. Providers are named; ``remote_*`` count what lies outside this site, timestamp
    authorities included."""

    ejected: tuple[str, ...] = ()
    """Providers and authorities that routing leaves alone now."""
    disabled: tuple[str, ...] = ()
    """Those that a person took out of use."""
    timestamps_owed: int = 0
    remote_configured: int = 0
    remote_reachable: int = 0
    disk_free_bytes: int | None = None
    """None: the store cannot tell."""
    log_damage: str = ""
    """What the check of the log found; empty: nothing."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Room on disk: below ``disk_low_bytes`` nothing new is taken, until there is ``disk_ok_bytes`` again."""

    disk_low_bytes: int = 512 * 1024 * 1024
    disk_ok_bytes: int = 640 * 1024 * 1024


class Assessment(msgspec.Struct, frozen=True):
    """The mode that the rule asks for, and each reason as ``word: text``."""

    mode: Mode
    reasons: tuple[str, ...] = ()


class ModeEntered(Event, frozen=True, kw_only=True):
    """The site works in this mode from now on. ``by_hand``: a person set it and it holds."""

    name: ClassVar[str] = "operations.mode_entered"
    mode: Mode
    previous: Mode
    reasons: tuple[str, ...]
    actor: str
    by_hand: bool = False
    at_ms: int


class ModeReleased(Event, frozen=True, kw_only=True):
    """The rule decides again."""

    name: ClassVar[str] = "operations.mode_released"
    reason: str
    actor: str
    at_ms: int


class AssessMode(Command, frozen=True, kw_only=True):
    """Apply the rule to what is observed."""

    observed: Observed
    limits: Limits = Limits()
    actor: str = "site"


class SetMode(Command, frozen=True, kw_only=True):
    """A person sets the mode, and says why."""

    mode: Mode
    reason: str
    actor: str


class ReleaseMode(Command, frozen=True, kw_only=True):
    """A person hands the mode back to the rule, and says why. ``observed`` None: the rule speaks in other streams."""

    reason: str
    actor: str
    observed: Observed | None
    limits: Limits = Limits()


class SiteMode(msgspec.Struct, frozen=True, kw_only=True):
    """The mode now. ``reasons`` are those it was entered with."""

    label: Mode = "normal"
    since_ms: int = 0
    reasons: tuple[str, ...] = ()
    actor: str = ""
    held: bool = False
    """Set by hand and not released."""


def assess(observed: Observed, limits: Limits, current: Mode = "normal") -> Assessment:
    """The mode that what is observed asks for; ``current`` settles the band between the disk thresholds."""
    stopping = _stopping(observed, limits, current)
    if stopping:
        return Assessment("read-only", stopping)
    ailing = _ailing(observed)
    if observed.remote_configured and not observed.remote_reachable:
        alone = (
            f"isolated: none of {observed.remote_configured} providers and authorities outside this"
            " site can be reached"
        )
        return Assessment("isolated", (alone, *ailing))
    return Assessment("degraded" if ailing else "normal", ailing)


def refusal(mode: Mode, work: Work) -> OutlastError | None:
    """Why a site in ``mode`` does not take on ``work`` now; None: it does."""
    if mode == "read-only" and work in ("accept", "local", "remote"):
        return Unavailable(
            "read-only",
            "this site takes no new work now; what it holds is served",
            hint="See /v1/status for the reason. Nothing was accepted; another site may take it.",
            retry_after_s=RETRY_AFTER_S,
            scope="site",
        )
    if mode == "isolated" and work == "remote":
        return Unavailable(
            "isolated",
            "this site reaches no provider outside itself",
            hint="Work that needs one waits and is done when one answers.",
            retry_after_s=RETRY_AFTER_S,
            scope="site",
        )
    return None


class ModeDecider:
    """`Decider` of the site's mode."""

    kind = KIND
    state = SiteMode
    events = (ModeEntered, ModeReleased)

    def decide(self, command: Any, state: SiteMode | None) -> Decision[ModeEntered | ModeReleased]:
        """Raises Refused ``reason-missing`` (by hand, no reason), ``mode-not-held`` (nothing to release)."""
        now = state or SiteMode()
        if isinstance(command, AssessMode):
            return Decision(events=() if now.held else _by_rule(command, now))
        if isinstance(command, SetMode):
            return _by_hand(command, now)
        if isinstance(command, ReleaseMode):
            return _released(command, now)
        raise Refused("unknown-command", f"a mode knows no {type(command).__name__}")

    def evolve(self, state: SiteMode | None, event: Event) -> SiteMode:
        """The mode after ``event``."""
        now = state or SiteMode()
        if isinstance(event, ModeReleased):
            return msgspec.structs.replace(now, held=False)
        assert isinstance(event, ModeEntered)
        return SiteMode(
            label=event.mode,
            since_ms=now.since_ms if event.mode == now.label else event.at_ms,
            reasons=event.reasons,
            actor=event.actor,
            held=event.by_hand,
        )


def _stopping(observed: Observed, limits: Limits, current: Mode) -> tuple[str, ...]:
    reasons = []
    free = observed.disk_free_bytes
    enough = limits.disk_ok_bytes if current == "read-only" else limits.disk_low_bytes
    if free is not None and free < enough:
        resume_mib = limits.disk_ok_bytes // 2**20
        reasons.append(f"disk-low: {free // 2**20} MiB free; taken again from {resume_mib} MiB")
    if observed.log_damage:
        reasons.append(f"log-damaged: {observed.log_damage}")
    return tuple(reasons)


def _ailing(observed: Observed) -> tuple[str, ...]:
    reasons = [f"provider-ejected: {name}" for name in sorted(observed.ejected)]
    reasons += [f"provider-disabled: {name}" for name in sorted(observed.disabled)]
    if observed.timestamps_owed:
        reasons.append(f"timestamps-owed: {observed.timestamps_owed}")
    return tuple(reasons)


def _by_rule(command: AssessMode | ReleaseMode, now: SiteMode) -> tuple[ModeEntered, ...]:
    if command.observed is None:
        return ()
    asked = assess(command.observed, command.limits, now.label)
    if asked.mode == now.label:
        return ()
    return (_entered(command, asked.mode, now, asked.reasons or ("recovered: all is well",)),)


def _by_hand(command: SetMode, now: SiteMode) -> Decision[ModeEntered | ModeReleased]:
    reason = f"by-hand: {stated(command.reason)}"
    if now.held and now.label == command.mode and now.reasons == (reason,):
        return Decision()
    return Decision(events=(_entered(command, command.mode, now, (reason,), by_hand=True),))


def _released(command: ReleaseMode, now: SiteMode) -> Decision[ModeEntered | ModeReleased]:
    if not now.held:
        raise Refused("mode-not-held", "the mode was not set by hand: there is nothing to release")
    released = ModeReleased(reason=stated(command.reason), actor=command.actor, at_ms=command.at_ms)
    return Decision(events=(released, *_by_rule(command, now)))


def _entered(
    command: AssessMode | SetMode | ReleaseMode,
    mode: Mode,
    now: SiteMode,
    reasons: tuple[str, ...],
    by_hand: bool = False,
) -> ModeEntered:
    return ModeEntered(
        mode=mode,
        previous=now.label,
        reasons=reasons,
        actor=command.actor,
        by_hand=by_hand,
        at_ms=command.at_ms,
    )
