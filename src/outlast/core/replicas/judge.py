"""Which copies of a blob are good, from what each store has and remembers. Pure.

A copy is good when its bytes have a digest that a store noted at the put: its own, or, where that noted none (a blob of
an earlier release, or put through a pre-signed URL), another's, whose own bytes may have rotted since. Where nobody noted
any, copies are good when all agree. Copies that are each what their store noted and yet differ are a dispute for a person:
nothing is overwritten then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Problem = Literal["missing", "corrupt", "disputed"]


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What one store has: ``found`` nothing or something, ``actual`` is the digest of the bytes now (empty: they
    cannot be read), ``noted`` the one kept at the put."""

    found: bool
    actual: str = ""
    noted: str | None = None
    size: int = 0


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """``digest`` is what the blob must have (empty: nobody knows); ``good`` stores have it, ``bad`` do not."""

    digest: str
    good: tuple[str, ...]
    bad: dict[str, Problem]

    @property
    def dead(self) -> bool:
        """Damaged everywhere: there is nothing to mend it from."""
        return bool(self.bad) and not self.good


def judge(copies: Mapping[str, Copy]) -> Judgement:
    """Tell good copies from bad ones; stores that could not be asked are left out of ``copies``."""
    actual = {c.actual for c in copies.values() if c.found and c.actual}
    proven = {c.noted for c in copies.values() if c.found and c.noted in actual}
    if len(proven) > 1:
        return Judgement(
            digest="",
            good=(),
            bad={store: "disputed" if c.found else "missing" for store, c in copies.items()},
        )
    digest = next(iter(proven), None) or _agreed(copies)
    good = tuple(s for s, c in copies.items() if c.found and digest and c.actual == digest)
    bad: dict[str, Problem] = {
        store: "corrupt" if copy.found else "missing"
        for store, copy in copies.items()
        if store not in good
    }
    return Judgement(digest=digest, good=good, bad=bad)


def _agreed(copies: Mapping[str, Copy]) -> str:
    """The digest of copies that nobody noted one for, if they are all alike."""
    if any(c.noted for c in copies.values() if c.found):
        return ""  # somebody knows what it must be, and has other bytes
    actual = {c.actual for c in copies.values() if c.found}
    return next(iter(actual)) if len(actual) == 1 else ""
