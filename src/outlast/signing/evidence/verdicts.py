"""What verification of evidence says: checks one by one, and what they add up to."""

from __future__ import annotations

from typing import Literal

import msgspec

from outlast.signing.pdf.verdicts import Verdict

Outcome = Literal["pass", "fail", "unknown"]
"""``unknown``: it could not be decided with what was given; not a failure, and not a proof."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. ``name`` is stable, ``subject`` says of what, ``message`` what was found.
    ``about_trust``: whether it asks who is behind a key, rather than whether bytes fit together."""

    name: str
    outcome: Outcome
    subject: str = ""
    message: str = ""
    about_trust: bool = False


class BundleVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle. ``valid``: all checks passed, with keys and roots that the caller pinned. ``untrusted``: all fits
    together, but some keys or roots were taken from the bundle itself. ``indeterminate``: something else could not be
    decided. ``invalid``: at least one check failed; ``reason`` is the first such message.

    ``log_keys_pinned``, ``roots_pinned``, ``tsa_roots_pinned``: what the caller brought. ``notes`` are remarks on what
    nothing in the bundle can prove.
    """

    verdict: Verdict
    reason: str
    request: str = ""
    document_sha256: str = ""
    signed_sha256: tuple[str, ...] = ()
    origin: str = ""
    log_size: int = 0
    log_keys_pinned: bool = False
    roots_pinned: bool = False
    tsa_roots_pinned: bool = False
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


class Findings:
    """Collects checks."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(
        self,
        name: str,
        outcome: Outcome | bool,
        message: str,
        *,
        subject: str = "",
        about_trust: bool = False,
    ) -> bool:
        """Note a check; whether it passed. ``outcome`` True or False: pass or fail."""
        if isinstance(outcome, bool):
            outcome = "pass" if outcome else "fail"
        self.checks.append(
            Check(
                name=name,
                outcome=outcome,
                subject=subject,
                message=message,
                about_trust=about_trust,
            )
        )
        return outcome == "pass"

    def conclusion(self) -> tuple[Verdict, str]:
        """What the checks add up to, and why it is not more."""
        failed = [c for c in self.checks if c.outcome == "fail"]
        unknown = [c for c in self.checks if c.outcome == "unknown"]
        open_ = [c for c in unknown if not c.about_trust]
        if failed:
            return "invalid", failed[0].message
        if open_:
            return "indeterminate", open_[0].message
        if unknown:
            return "untrusted", unknown[0].message
        return "valid", ""
