"""Takes ended spans to a collector, over OTLP/HTTP, with the OpenTelemetry SDK (the extra ``telemetry``).

Guarantees: nobody waits for a collector. Spans go from the tracer's bounded queue to it in a thread of its own, at most
BATCH_SPANS at a time; what it does not take within EXPORT_TIMEOUT_S is dropped and counted, and said once, not each time.
The thread is a daemon and is waited for at most CLOSE_TIMEOUT_S at the end.

Refuses: a header file over plain HTTP to another machine, an endpoint that is no URL. Reads no proxy settings or netrc
of the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from outlast import __version__
from outlast.adapters.exchange import is_loopback
from outlast.core.clock import Clock
from outlast.core.errors import Refused
from outlast.core.telemetry import SCHEMA_URL, Span, Tracer
from outlast.wiring.config import Config, TelemetrySection
from outlast.wiring.secrets import read_secret

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("outlast.telemetry")

BATCH_SPANS = 128
"""Spans encoded at once: encoding holds the interpreter's lock, about 10 ms for so many."""
EXPORT_EVERY_S = 1.0
EXPORT_TIMEOUT_S = 5.0
"""For one batch, attempts to send it again included."""
CLOSE_TIMEOUT_S = 2.0
"""How long the end of the process waits for the last spans to be taken."""
TRACES_PATH = "/v1/traces"
MAX_HEADERS = 16


class Export(Protocol):
    """Sends spans, waiting for the answer."""

    def __call__(self, spans: Sequence[Span]) -> bool:
        """Whether they were taken."""
        ...


def node_name() -> str:
    """This process among all others: host and process id."""
    return f"{socket.gethostname()}/{os.getpid()}"


class Exporter:
    """The thread that takes spans from a tracer to a collector."""

    def __init__(self, tracer: Tracer, export: Export, shut: Callable[[], None]) -> None:
        self._tracer = tracer
        self._export = export
        self._shut = shut
        self._stop = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send what is left, if that goes quickly."""
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._shut()

    def _run(self) -> None:
        while not self._stop.wait(EXPORT_EVERY_S):
            self._empty()
        self._empty()
        self._shut()

    def _empty(self) -> None:
        while spans := self._tracer.drain(BATCH_SPANS):
            taken = self._send(spans)
            if taken:
                self._tracer.exported += len(spans)
            else:
                self._tracer.refused += len(spans)
            self._say(taken)
            if not taken and self._stop.is_set():
                return

    def _send(self, spans: Sequence[Span]) -> bool:
        try:
            return self._export(spans)
        except Exception as error:
            # a thread that died would stop the export for good, and silently
            log.warning("spans not exported: %s", type(error).__name__)
            return False

    def _say(self, taken: bool) -> None:
        if taken == self._failing:
            self._failing = not taken
            if taken:
                log.warning("the telemetry collector takes spans again")
            else:
                log.warning("the telemetry collector does not take spans; they are dropped")


@asynccontextmanager
async def tracing(
    config: Config, clock: Clock, entropy: Callable[[int], bytes], node: str = ""
) -> AsyncIterator[Tracer | None]:
    """A site's tracer; see `exporting`."""
    kinds = {n: str(p.__struct_config__.tag) for n, p in config.providers.items()}
    kinds |= dict.fromkeys(config.authorities, "rfc3161")
    section, site = config.telemetry, config.site.name
    async with exporting(section, site, clock, entropy, kinds, node) as tracer:
        yield tracer


@asynccontextmanager
async def exporting(
    section: TelemetrySection,
    site: str,
    clock: Clock,
    entropy: Callable[[int], bytes],
    kinds: dict[str, str] | None = None,
    node: str = "",
) -> AsyncIterator[Tracer | None]:
    """A tracer whose spans are exported while the context lasts; None where no endpoint is configured. ``kinds`` tells
    what kind of provider is behind a name, ``node`` whose spans they are (empty: this process's, by host and id).

    Raises Refused ``telemetry-missing`` (the extra is not installed), ``config-invalid``, ``secret-unreadable``.
    """
    if not section.endpoint:
        yield None
        return
    tracer = Tracer(
        clock,
        entropy,
        ratio=section.sample_ratio,
        callers_decide=section.callers_decide,
        kinds=kinds,
    )
    export, shut = otlp(section, site, tracer, node)
    exporter = Exporter(tracer, export, shut)
    try:
        yield tracer
    finally:
        await asyncio.to_thread(exporter.close)


def otlp(
    section: TelemetrySection, site: str, tracer: Tracer, node: str = ""
) -> tuple[Export, Callable[[], None]]:
    """What sends spans to the configured collector, and what ends that."""
    url, headers = _endpoint(section), _headers(section)
    try:
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError as error:
        raise Refused(
            "telemetry-missing",
            "[telemetry] names an endpoint, and the OpenTelemetry SDK is not installed",
            hint="pip install 'outlast[telemetry]'",
        ) from error
    # It says of every batch that it could not be sent; `Exporter` says it once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False
    exporter = OTLPSpanExporter(
        endpoint=url,
        headers=headers,
        timeout=EXPORT_TIMEOUT_S,
        certificate_file=section.ca_file or None,
        session=session,
    )
    resource = Resource(
        {
            "service.name": section.service_name,
            "service.version": __version__,
            "service.namespace": "outlast",
            "service.instance.id": node or node_name(),
            "outlast.site": site,
        },
        SCHEMA_URL,
    )

    def export(spans: Sequence[Span]) -> bool:
        offset_ns = tracer.epoch_ns()
        taken = exporter.export([_readable(span, resource, offset_ns) for span in spans])
        return taken is SpanExportResult.SUCCESS

    return export, exporter.shutdown


def _readable(span: Span, resource: Resource, offset_ns: int) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(trace_id: str, span_id: str, is_remote: bool) -> SpanContext:
        return SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(TraceFlags.SAMPLED)
        )

    trace_id = span.context.trace_id
    is_remote = span.kind == "server"
    return ReadableSpan(
        name=span.name,
        context=context(trace_id, span.context.span_id, False),
        parent=context(trace_id, span.parent_id, is_remote) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        links=[Link(context(*to, False)) for to in span.links],
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=int(span.started_s * 1e9) + offset_ns,
        end_time=int(span.ended_s * 1e9) + offset_ns,
        instrumentation_scope=InstrumentationScope("outlast", __version__, SCHEMA_URL),
    )


def _endpoint(section: TelemetrySection) -> str:
    try:
        parts = urlsplit(section.endpoint)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _invalid("its endpoint is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise _invalid("its endpoint must be an http or https URL with a host, and without a user")
    if parts.scheme == "http" and section.headers_file and not is_loopback(host):
        raise _invalid("headers_file needs an https endpoint: its content could be read on the way")
    if section.ca_file and not Path(section.ca_file).is_file():
        raise _invalid("its ca_file is not there")
    # the OTLP specification: a base URL gets the signal's path
    path = TRACES_PATH if parts.path in ("", "/") else parts.path
    return parts._replace(path=path).geturl()


def _headers(section: TelemetrySection) -> dict[str, str]:
    if not section.headers_file:
        return {}
    headers: dict[str, str] = {}
    for line in read_secret(Path(section.headers_file)).decode("latin-1").splitlines():
        name, colon, value = line.partition(":")
        if not colon or not name.strip().isascii() or not value.strip().isprintable():
            raise _invalid("its headers_file must have lines of the form `name: value`")
        headers[name.strip().lower()] = value.strip()
    if len(headers) > MAX_HEADERS:
        raise _invalid(f"its headers_file may have {MAX_HEADERS} headers")
    return headers


def _invalid(why: str) -> Refused:
    return Refused("config-invalid", f"[telemetry]: {why}", scope="telemetry")
