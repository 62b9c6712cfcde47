"""A signer of each algorithm, made once: an RSA key takes a second."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from outlast.core.asymmetric import KEY_ALGORITHMS, KeyAlgorithm
from outlast.core.clock import ManualClock
from outlast.testing.pdfs import LocalSigner

NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="session")
def signers() -> Mapping[KeyAlgorithm, LocalSigner]:
    """One for each algorithm, certificates valid around NOW_MS."""
    clock = ManualClock(NOW_MS)
    return {a: LocalSigner.make(a, clock) for a in KEY_ALGORITHMS}


@pytest.fixture(scope="session")
def signer(signers: Mapping[KeyAlgorithm, LocalSigner]) -> LocalSigner:
    """The P-256 one."""
    return signers["ecdsa-p256-sha256"]
