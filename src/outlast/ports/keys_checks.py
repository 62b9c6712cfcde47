"""What every key adapter checks before it acts, with one set of codes for all of them.

Beside `keys`, so that an adapter is told apart from another by what it can do, never by how it says no.
"""

from __future__ import annotations

from outlast.core.errors import Refused
from outlast.ports.keys import MAX_TBS_BYTES, Algorithm, KeyInfo, SignRequest


def check_tbs(request: SignRequest) -> None:
    """Raises Refused ``tbs-too-large`` or ``tbs-empty``."""
    size = len(request.tbs)
    if size > MAX_TBS_BYTES:
        raise Refused(
            "tbs-too-large",
            f"{size} bytes to be signed, at most {MAX_TBS_BYTES} are",
            hint="Sign a digest's attributes, never the document itself.",
        )
    if size == 0:
        raise Refused("tbs-empty", "there is nothing to sign")


def check_algorithm(request: SignRequest, info: KeyInfo) -> None:
    """Raises Refused ``key-algorithm-mismatch`` where the key is of another algorithm than was asked for."""
    if info.algorithm != request.algorithm:
        raise key_algorithm_mismatch(request.key_ref, asked=request.algorithm, is_of=info.algorithm)


def key_algorithm_mismatch(key_ref: str, *, asked: Algorithm, is_of: str) -> Refused:
    """The key exists and is of another algorithm."""
    return Refused(
        "key-algorithm-mismatch",
        f"key {key_ref[:200]!r} is {is_of}, asked to sign with {asked}",
        hint="Enrol the key again: its record does not describe it.",
    )


def key_not_found(key_ref: str) -> Refused:
    """The provider has no key of this name, or none that this name could be of."""
    return Refused(
        "key-not-found",
        f"the provider has no key {key_ref[:200]!r}",
        hint="List the provider's keys, and check which name the key was enrolled under.",
    )


def credentials_refused(message: str, *, hint: str = "") -> Refused:
    """The provider does not take our credentials, or they do not reach this far."""
    return Refused("credentials-refused", message, retry="reauth", hint=hint)
