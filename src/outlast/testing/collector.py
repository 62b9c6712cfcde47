"""A telemetry collector for tests: takes OTLP over HTTP, parses the protobuf, and can hang or refuse.

It is a real server in a thread of its own; what it cannot parse it answers with 400, as the OTLP specification wants it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

MAX_BODY_BYTES = 16 * 1024 * 1024
Behaviour = Literal["take", "hang", "refuse"]


class Received:
    """A span as it arrived: ids in hex, attributes as a dictionary, links as (trace id, span id)."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.started_ns: int = span.start_time_unix_nano
        self.ended_ns: int = span.end_time_unix_nano
        self.attributes = _plain(span.attributes)
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.is_error = span.status.code == 2
        self.resource = resource

    def __repr__(self) -> str:
        return f"<{self.name} {self.trace_id[:6]}/{self.span_id[:4]} {self.attributes}>"


class Collector:
    """What arrived, and how the server behaves."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = "take"
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []
        self.asked = 0
        self.let_go = threading.Event()
        """Set at the end: whoever hangs is let go."""
        self.url = ""

    def named(self, name: str) -> list[Received]:
        """The spans of a name, oldest first."""
        return sorted((s for s in list(self.spans) if s.name == name), key=lambda s: s.started_ns)

    def take(self, body: bytes) -> None:
        """Parse an export. Raises what protobuf raises."""
        request = ExportTraceServiceRequest.FromString(body)
        for part in request.resource_spans:
            resource = _plain(part.resource.attributes)
            for scope in part.scope_spans:
                self.spans.extend(Received(span, resource) for span in scope.spans)


def _plain(pairs: Any) -> dict[str, Any]:
    return {p.key: getattr(p.value, p.value.WhichOneof("value")) for p in pairs}


@contextmanager
def running_collector() -> Iterator[Collector]:
    """A collector on a free loopback port; ``url`` is its base."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers["content-length"]), MAX_BODY_BYTES))
            collector.asked += 1
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            if collector.behaviour == "hang":
                collector.let_go.wait()
                return
            status = 503 if collector.behaviour == "refuse" else 200
            try:
                if status == 200:
                    collector.take(body)
            except Exception:  # protobuf's own errors: its package is not ours to import
                status = 400
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        collector.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
