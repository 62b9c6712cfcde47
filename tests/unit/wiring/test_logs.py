"""Log lines: one event one line, whoever wrote it, and no secret in any."""

from __future__ import annotations

import io
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from outlast.core.clock import ManualClock
from outlast.core.telemetry import Tracer, traced
from outlast.wiring import logs
from outlast.wiring.logs import LogForm, log_to_stream


@pytest.fixture
def root() -> Iterator[None]:
    """The root logger, given back as it was; so is uvicorn's."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)


def written(form: LogForm, name: str, message: str, *given: object, **more: Any) -> str:
    """What a logger's warning looks like."""
    stream = io.StringIO()
    log_to_stream(form, "info", "berlin", "host/7", stream)
    logging.getLogger(name).warning(message, *given, **more)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["outlast.commit", "uvicorn.error", "uvicorn.access", "asyncio"])
def test_everybody_writes_the_same_json(root: None, name: str) -> None:
    """Time, level, logger, message, site, node; one line."""
    line = written("json", name, "lost %d of %s", 3, "many")
    assert line.count("\n") == 1
    told = json.loads(line)
    assert told.pop("ts").endswith("Z")
    assert told == {
        "level": "warning", "logger": name, "msg": "lost 3 of many", "site": "berlin", "node": "host/7",
    }  # fmt: skip


def test_nobody_writes_a_second_line(root: None) -> None:
    """Line ends, escapes and terminal codes in a message stay inside their line, in both forms."""
    hostile = 'one\n2026 ERROR forged\r\x1b[31mred\u2028"quoted"'
    for form in ("json", "text"):
        line = written(form, "outlast", "%s", hostile)
        assert line.count("\n") == 1
        assert "\x1b" not in line
    assert json.loads(written("json", "outlast", "%s", hostile))["msg"] == hostile


def test_exceptions_fields_and_wrong_arguments(root: None) -> None:
    """A traceback is one member, ``extra`` another; a message whose arguments do not fit is written all the same."""
    try:
        raise ValueError("inside")
    except ValueError:
        told = json.loads(
            written("json", "outlast", "failed", exc_info=True, extra={"job": 7, "why": "x"})
        )
    assert told["error"].endswith("ValueError: inside")
    assert told["fields"] == {"job": 7, "why": "x"}
    assert json.loads(written("json", "outlast", "%d", "no number"))["msg"] == "%d"


async def test_lines_of_a_traced_request_name_it(root: None) -> None:
    """trace_id and span_id are those of the span that the task works in; outside there are none."""
    span = Tracer(ManualClock(), os.urandom).begin("x")

    async def inside() -> str:
        return written("json", "outlast", "hello")

    told = json.loads(await traced(span, inside()))
    assert (told["trace_id"], told["span_id"]) == span.context
    assert "trace_id" not in json.loads(written("json", "outlast", "hello"))


@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer abcdef123456789",
        "postgresql://outlast:hunter2secret@db/outlast",
        "token ol_0123456789ab_cdefGHIJKLmnopqr is known",
        "hvs.CAESIJabcdefghijklmnop",
        "-----BEGIN PRIVATE KEY-----\nMIIEvAIBADANBgkq\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIAbc",
    ],
)
def test_secrets_are_blacked_out(root: None, secret: str) -> None:
    """In the message, in fields, and in the traceback of an error whose text holds one."""
    hidden = ("abcdef123456789", "hunter2secret", "cdefGHIJKL", "CAESIJ", "MIIEvA", "MHcCAQ")
    for form in ("json", "text"):
        try:
            raise RuntimeError(secret)
        except RuntimeError:
            line = written(form, "outlast", "it was %s", secret, exc_info=True, extra={"x": secret})
        assert "***" in line
        assert not [h for h in hidden if h in line], line


def test_warnings_are_lines_too(root: None) -> None:
    """Python's warnings come through the same stream."""
    stream = io.StringIO()
    log_to_stream("json", "warning", "berlin", "n", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    assert "old ways" in json.loads(stream.getvalue())["msg"]


def test_a_long_text_is_looked_through_at_once() -> None:
    """Lines are written on the event loop: what an error quotes must not hold it up, whatever it is made of."""
    began_s = time.perf_counter()
    for piece in ("a.", "a://a:", "bearer ", "-----BEGIN A PRIVATE KEY"):
        logs.redacted(piece * 40_000)
    assert time.perf_counter() - began_s < 2
