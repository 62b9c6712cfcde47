"""The error tree: each kind says what a caller may do."""

from __future__ import annotations

import pytest

from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable, Unknown


@pytest.mark.parametrize(
    ("kind", "retry"),
    [
        (Refused, "never"),
        (Unavailable, "later"),
        (Unknown, "same"),
        (Conflict, "same"),
        (Corrupt, "never"),
    ],
)
def test_kind_says_whether_to_retry(kind: type[OutlastError], retry: str) -> None:
    """Each kind has its own default, which one error may override."""
    error = kind("some-code", "what happened", hint="do this", retry_after_s=2.0, scope="site")
    assert (error.retry, str(error)) == (retry, "some-code: what happened")
    assert (error.hint, error.retry_after_s, error.scope) == ("do this", 2.0, "site")
    assert kind("c", "m", retry="elsewhere").retry == "elsewhere"
