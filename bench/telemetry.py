"""What telemetry costs an accept, in processor time: python bench/telemetry.py [--other SRC]

Each run is a process of its own that drives the API's ASGI application in memory: no sockets, no workers, a real SQLite
store on the disk of the temporary folder. Processor time of the whole process per accepted request, so that a busy machine
matters little; runs are interleaved, medians told. ``--other`` is the ``src`` folder of another version, run the same way:
that is how the cost of switched-off telemetry was compared with code that has none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REQUESTS = 3_000
WARM = 500
CLIENTS = 32
RUNS = 5


async def _drive(ratio: float, endpoint: str) -> float:
    """Microseconds of processor time per accept."""
    import gc

    from outlast.core.access import SCOPES
    from outlast.surfaces.http.app import HttpApi
    from outlast.testing.pdfs import plain_pdf
    from outlast.wiring import config as c
    from outlast.wiring.site import open_site

    given: dict[str, Any] = {}
    if endpoint:
        given["telemetry"] = c.TelemetrySection(endpoint=endpoint, sample_ratio=ratio)
    with tempfile.TemporaryDirectory(prefix="outlast-telemetry-") as folder:
        config = c.check(c.Config(site=c.SiteSection(data=folder), **given))
        async with open_site(config) as site:
            made = await site.access.create(by="bench", tenant="default", scopes=SCOPES)
            api = HttpApi(site)
            token = (b"authorization", f"Bearer {made.token}".encode())

            async def post(path: str, kind: bytes, body: bytes, key: bytes) -> bytes:
                answer = bytearray()
                messages = [{"type": "http.request", "body": body, "more_body": False}]

                async def receive() -> dict[str, Any]:
                    return messages.pop() if messages else await asyncio.Future()

                async def send(message: Any) -> None:
                    answer.extend(message.get("body", b""))

                scope = {
                    "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
                    "query_string": b"", "headers": [token, (b"content-type", kind),
                    (b"content-length", b"%d" % len(body)), (b"idempotency-key", key)],
                }  # fmt: skip
                await asyncio.create_task(api(scope, receive, send))
                return bytes(answer)

            import msgspec

            added = msgspec.json.decode(
                await post("/v1/documents", b"application/pdf", plain_pdf(1), b"document")
            )
            ask = msgspec.json.encode({"document": added["id"]})
            numbers = iter(range(WARM + REQUESTS))

            async def client(last: int) -> None:
                for n in numbers:
                    await post("/v1/signature-requests", b"application/json", ask, b"k%d" % n)
                    if n >= last:
                        return

            await asyncio.gather(*(client(WARM - CLIENTS) for _ in range(CLIENTS)))
            gc.collect()
            gc.freeze()
            began, first = time.process_time(), next(numbers)
            await asyncio.gather(*(client(WARM + REQUESTS) for _ in range(CLIENTS)))
            tracer = getattr(site, "tracer", None)
            while tracer is not None and tracer.waiting:  # noqa: ASYNC110 - exporting is part of the cost
                await asyncio.sleep(0.05)
            return (time.process_time() - began) / (WARM + REQUESTS - first) * 1e6


def _run(name: str, source: Path, ratio: float, endpoint: str) -> float:
    command = [sys.executable, __file__, "--one", "--ratio", str(ratio), "--endpoint", endpoint]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{name}: {ran.stderr[-2000:]}")
    return float(ran.stdout.split()[-1])


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--ratio", type=float, default=1.0)
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--other", type=Path)
    given = parser.parse_args()
    if given.one:
        print(asyncio.run(_drive(given.ratio, given.endpoint)))
        return
    own = Path(__file__).resolve().parents[1] / "src"
    from outlast.testing.collector import running_collector

    with running_collector() as collector:
        kinds = {
            **({"other source": (given.other, 1.0, "")} if given.other else {}),
            "off": (own, 1.0, ""),
            "ratio 0.1": (own, 0.1, collector.url),
            "ratio 1.0": (own, 1.0, collector.url),
        }
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(RUNS):
            for name, how in kinds.items():
                found[name].append(_run(name, *how))
    for name, values in found.items():
        shown = " ".join(f"{v:.0f}" for v in values)
        print(f"{name:14} {statistics.median(values):7.1f} us/accept   ({shown})")


if __name__ == "__main__":
    main()
