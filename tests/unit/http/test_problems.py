"""Errors become problem details whose status, retry class and headers agree."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.surfaces.http.problems import headers_of, problem_of, status_of, unexpected


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (Refused("document-not-found", "x"), 404, "never"),
        (Refused("field-too-long", "x"), 422, "never"),
        (Refused("scope-missing", "x"), 403, "never"),
        (Refused("forbidden", "x"), 403, "never"),
        (Refused("token-revoked", "x", retry="reauth"), 401, "reauth"),
        (Refused("not-signed-yet", "x", retry="later", retry_after_s=1), 409, "later"),
        (Refused("body-too-large", "x"), 413, "never"),
        (Refused("content-type", "x"), 415, "never"),
        (Refused("idempotency-key-reused", "x"), 422, "never"),
        (Conflict("version-conflict", "x"), 412, "same"),
        (Conflict("already-signed", "x", retry="never"), 409, "never"),
        (Unavailable("overloaded", "x", retry_after_s=7), 503, "later"),
        (Unavailable("rate-limited", "x", retry_after_s=1), 429, "later"),
        (Unavailable("storage-full", "x"), 503, "later"),
        (Unknown("storage-unknown", "x"), 502, "same"),
        (Corrupt("blob-corrupt", "x"), 500, "never"),
    ],
)
def test_status_and_retry(error: OutlastError, status: int, retry: str) -> None:
    """Each kind of error has its status; some codes have one of their own."""
    problem = problem_of(error, "r-1")
    assert (problem.status, problem.retry) == (status, retry)
    assert problem.status == status_of(error)
    assert problem.type == f"tag:outlast.invalid,2026:{error.code}"
    assert problem.request_id == "r-1"


@pytest.mark.parametrize("kind", [Refused, Conflict, Unavailable, Unknown, Corrupt])
def test_everything_says_what_to_do_next(kind: type[OutlastError]) -> None:
    """An error without a hint of its own gets one by its status."""
    assert problem_of(kind("some-code", "x"), "").hint
    assert problem_of(kind("some-code", "x", hint="Do this."), "").hint == "Do this."


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    """Retry-After is an integer of at least 1, whatever fraction the body says; Unavailable always has one."""
    problem = problem_of(Unavailable("overloaded", "x", retry_after_s=2.2), "")
    assert (b"retry-after", b"3") in headers_of(problem)
    assert problem.retry_after_s == 2.2
    assert (b"retry-after", b"1") in headers_of(problem_of(Unavailable("x", "x"), ""))
    assert not [h for h in headers_of(problem_of(Refused("x", "x"), "")) if h[0] == b"retry-after"]


def test_challenge() -> None:
    """401 carries a bearer challenge; a token that was presented is called invalid."""
    missing = headers_of(problem_of(Refused("token-missing", "x", retry="reauth"), ""))
    wrong = headers_of(problem_of(Refused("token-invalid", "x", retry="reauth"), ""))
    assert (b"www-authenticate", b'Bearer realm="outlast"') in missing
    assert (b"www-authenticate", b'Bearer realm="outlast", error="invalid_token"') in wrong


def test_details_are_bounded() -> None:
    """A message that quotes its caller at length is cut."""
    assert len(problem_of(Refused("x", "y" * 10_000), "").detail) == 1_000


def test_the_unexpected_tells_nothing() -> None:
    """An unforeseen exception shows its request id and no more."""
    problem = unexpected("r-2")
    assert (problem.status, problem.code, problem.request_id) == (500, "internal-error", "r-2")


def test_every_code_is_in_the_reference() -> None:
    """docs/reference/errors.md lists every error code of the program; its maker says which are missing."""
    maker = pathlib.Path(__file__).parents[3] / "docs" / "reference" / "make_errors.py"
    checked = subprocess.run(
        [sys.executable, maker, "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, f"run {maker.name}; missing:\n{checked.stdout}{checked.stderr}"
