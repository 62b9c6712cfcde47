"""Every way a thing can fail here, and what the caller may do about it.

    OutlastError
    |-- Refused       never retry: the answer will not change by itself
    |-- Unavailable   nothing happened: retry later, or go elsewhere
    |-- Unknown       it may have happened: ask before repeating
    |-- Conflict      somebody else wrote first: decide again on the new state
    `-- Corrupt       bytes are not what was written: stop, a person must look

Adapters translate every SDK error into one of the first three at their edge. Surfaces turn any of them into
RFC 9457 problem details. ``code`` is a stable kebab-case word for programs; ``message`` and ``hint`` are for
people: the hint says what to do next. Neither may carry a secret or a document's content.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Retry = Literal["never", "same", "elsewhere", "later", "reauth"]


class OutlastError(Exception):
    """Base of the tree; raise one of its children.

    ``retry`` tells a program what to do: ``never``; ``same`` request again at once; ``elsewhere`` at another
    site or provider; ``later`` after ``retry_after_s`` seconds; ``reauth`` with fresh credentials.
    ``scope`` names what is affected (a provider, a class, ``site``), so that a caller can route around it.
    """

    retry_default: ClassVar[Retry] = "never"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        retry: Retry | None = None,
        retry_after_s: float | None = None,
        scope: str = "",
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.hint = hint
        self.retry: Retry = retry or self.retry_default
        self.retry_after_s = retry_after_s
        self.scope = scope


class Refused(OutlastError):
    """The request is wrong, or policy forbids it. Repeating it cannot help."""


class Unavailable(OutlastError):
    """It certainly did not happen. Retry after ``retry_after_s``, or go elsewhere."""

    retry_default: ClassVar[Retry] = "later"


class Unknown(OutlastError):
    """It may have happened: a timeout after sending, a connection lost before the answer."""

    retry_default: ClassVar[Retry] = "same"


class Conflict(OutlastError):
    """The state moved on between reading and writing. Nothing was written."""

    retry_default: ClassVar[Retry] = "same"


class Corrupt(OutlastError):
    """Stored bytes fail their check. Nothing may be built on them."""
