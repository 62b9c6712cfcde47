"""Whose fault a failure is: what adapters really raise, held against what routing makes of it."""

from __future__ import annotations

import pytest

from outlast.core.errors import Refused
from outlast.core.routing.outcome import outcome_of
from outlast.ports.keys_checks import credentials_refused


def test_a_provider_that_refuses_our_credentials_is_counted_as_failed() -> None:
    """An expired token or PIN is the same for every request: the provider must be left, not asked first each time."""
    outcome = outcome_of(credentials_refused("the vault refuses the token"))
    assert outcome.kind == "auth-refused"
    assert outcome.failed


@pytest.mark.parametrize("code", ["secret-unreadable", "secret-exposed"])
def test_a_provider_whose_secret_cannot_be_read_is_counted_as_failed(code: str) -> None:
    """So is one whose token file is missing or exposed."""
    assert outcome_of(Refused(code, "vault.token: No such file")).failed
