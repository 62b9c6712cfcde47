"""Log lines: ours, uvicorn's, everybody's, in one form on one stream.

Guarantees: one event is one line of JSON (``log = "json"``), whatever its text contains; each says when, how bad, who,
which site and node, and, where a recorded request or job led to it, which trace. What looks like a bearer token, a
password in a URL or a private key is blacked out, wherever it stands in the line.

Text (``log = "text"``) is for people at a terminal: the same without site and node; an exception's traceback follows on
lines of its own.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from typing import Any, Literal, TextIO

import msgspec

from outlast.core.clock import iso
from outlast.core.telemetry import current_span

LogForm = Literal["json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

MAX_MESSAGE_CHARS = 8_192
MAX_TRACEBACK_CHARS = 16_384
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Without bounds on what may come before "://", a long text of dots and letters takes seconds of the event loop.
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,31}://[^\s/:@]*):[^\s/@]+@"), r"\1:***@"),
    (re.compile(r"\b(ol|hvs|hvb)[_.][A-Za-z0-9_.-]{16,}"), r"\1_***"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
        "*** private key ***",
    ),
)  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
"""What every record has; what else is on one was given with ``extra``."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of JSON. ``ts`` is RFC 3339, UTC."""

    ts: str
    level: str
    logger: str
    msg: str
    site: str = ""
    node: str = ""
    trace_id: str = ""
    span_id: str = ""
    error: str = ""
    fields: dict[str, str | int | float | bool] = {}


_encode = msgspec.json.Encoder().encode


def redacted(text: str) -> str:
    """Without what looks like a secret."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class JsonLines(logging.Formatter):
    """Records as lines of JSON."""

    def __init__(self, site: str, node: str) -> None:
        super().__init__()
        self._site = site
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        span = current_span()
        line = Line(
            ts=iso(int(record.created * 1000)),
            level=record.levelname.lower(),
            logger=record.name,
            msg=redacted(_message(record))[:MAX_MESSAGE_CHARS],
            site=self._site,
            node=self._node,
            trace_id=span.context.trace_id if span else "",
            span_id=span.context.span_id if span else "",
            error=redacted(_trace(record))[-MAX_TRACEBACK_CHARS:],
            fields=_fields(record),
        )
        return _encode(line).decode("utf-8", "replace")


class TextLines(logging.Formatter):
    """Records as text: the message on one line, a traceback below it."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Control characters of the message are escaped: nobody writes lines into this log."""
        text = redacted(_CONTROL.sub(_escaped, _message(record))[:MAX_MESSAGE_CHARS])
        parts = [f"{self.formatTime(record)} {record.levelname} {record.name}: {text}"]
        span = current_span()
        if span is not None:
            parts[0] += f" [trace {span.context.trace_id}]"
        if trace := redacted(_trace(record)):
            parts.append(trace[-MAX_TRACEBACK_CHARS:])
        return "\n".join(parts)


def log_to_stream(
    form: LogForm, level: LogLevel, site: str, node: str, stream: TextIO | None = None
) -> logging.Handler:
    """Send all log lines of this process to a stream (standard error); returns the handler, the root's only one."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(site, node) if form == "json" else TextLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # they come through the root, too; an own handler would write them in another form
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(True)
    return handler


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (
        Exception
    ):  # arguments that do not fit: the text is worth more than an error from logging itself
        return str(record.msg)


def _trace(record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[0] is not None:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return record.exc_text or ""


def _fields(record: logging.LogRecord) -> dict[str, str | int | float | bool]:
    found: dict[str, str | int | float | bool] = {}
    for name, value in vars(record).items():
        if name in _STANDARD:
            continue
        found[name] = value if isinstance(value, bool | int | float) else redacted(str(value))
    return found


def _escaped(match: re.Match[str]) -> Any:
    return match[0].encode("unicode_escape").decode()
