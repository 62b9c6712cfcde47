"""Traces of a whole site, as a real collector gets them: over HTTP, a real signing appliance and a real authority."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.access import SCOPES
from outlast.core.clock import SystemClock
from outlast.signing.api import Caller
from outlast.signing.classes import DocumentClass
from outlast.surfaces.http.server import build_server
from outlast.surfaces.tsa.identity import ROOT_FILE
from outlast.surfaces.tsa.server import TsaConfig, serve_tsa
from outlast.testing.collector import Collector, Received, running_collector
from outlast.testing.pdfs import plain_pdf
from outlast.testing.servers import make_tls_ca, make_tls_files, start_appliance, write_secret
from outlast.wiring.config import (
    AuthoritySection,
    Config,
    RemoteProvider,
    SiteSection,
    TelemetrySection,
    check,
)
from outlast.wiring.embedded import certify, site_authority
from outlast.wiring.site import Site, open_site, run_site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "a personal name that stands in no span"
SERVER, CLIENT, CONSUMER = 2, 3, 5
"""Kinds of span, opentelemetry/proto/trace/v1."""


@contextlib.asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[Site, httpx2.AsyncClient]]:
    """A site behind its real server, and a client with all scopes."""
    async with open_site(config) as site:
        made = await site.access.create(by="test", tenant="default", scopes=SCOPES)
        loops = asyncio.create_task(run_site(site))
        server = build_server(site, port=0)
        serving_ = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"authorization": f"Bearer {made.token}"}
        try:
            async with httpx2.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30
            ) as client:
                yield site, client
        finally:
            server.should_exit = True
            await serving_
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)


async def until(found: Callable[[], Any], what: str) -> Any:
    """What is looked for, once it is there."""
    async with asyncio.timeout(20):
        while not (value := found()):
            await asyncio.sleep(0.05)
    assert value, what
    return value


@pytest.fixture(scope="module")
async def traced(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Collector, httpx2.Response]]:
    """All spans of one request that a caller traced, through appliance and authority, and its answer."""
    folder = tmp_path_factory.mktemp("traced")
    clock = SystemClock()
    ca = make_tls_ca(folder, clock)
    server, mine = (
        make_tls_files(folder, ca, name, kind, clock)
        for name, kind in (("server", "server"), ("site", "client"))
    )
    write_secret(folder / "passphrase", b"not to be seen")
    keys = SoftwareSigner(folder / "keys", b"not to be seen")
    await keys.generate("board", "ecdsa-p256-sha256")
    with running_collector() as collector:
        telemetry = TelemetrySection(endpoint=collector.url, sample_ratio=1.0)
        write_secret(folder / "otlp.headers", b"X-Collector-Key: letmein\n")
        own = msgspec.structs.replace(telemetry, headers_file=str(folder / "otlp.headers"))
        appliance = await asyncio.to_thread(
            start_appliance,
            folder / "appliance",
            tls=server,
            clients=[{"name": "a", "common_name": "site", "keys": ["*"]}],
            keystore={
                "kind": "software",
                "directory": "../keys",
                "passphrase_file": "../passphrase",
            },
            telemetry=msgspec.to_builtins(
                msgspec.structs.replace(telemetry, service_name="appliance")
            ),
        )
        tsa: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        clock_task = asyncio.create_task(
            serve_tsa(
                TsaConfig(directory=str(folder / "tsa")),
                on_listening=lambda _, port: tsa.set_result(port),
            )
        )
        config = Config(
            site=SiteSection(data=str(folder / "data"), name="berlin"),
            telemetry=own,
            providers={
                "hsm-room": RemoteProvider(
                    url=appliance.url,
                    ca_file=str(mine.ca),
                    certificate_file=str(mine.certificate),
                    key_file=str(mine.key),
                )
            },
            authorities={
                "clock": AuthoritySection(
                    url=f"http://127.0.0.1:{await tsa}", roots_file=str(folder / "tsa" / ROOT_FILE)
                )
            },
            classes={"default": DocumentClass(level="B-T")},
        )
        try:
            async with serving(check(config)) as (site, client):
                answer = await sign_once(site, client)
                await until(lambda: collector.named("publish checkpoint"), "a checkpoint")
        finally:
            await asyncio.to_thread(appliance.process.stop)
            clock_task.cancel()
            await asyncio.gather(clock_task, return_exceptions=True)
        yield collector, answer


async def sign_once(site: Site, client: httpx2.AsyncClient) -> httpx2.Response:
    """Enrol the key, sign one document, and give back the answer to the request, which came with a traceparent."""
    info = await site.world.signers["hsm-room"].describe("board")
    chain = certify(site_authority(site.config, site.clock), info, "board", site.clock)
    await site.signing.enrol_key(Caller("default", "test"), "default", "hsm-room", "board", chain)
    document = await client.post(
        "/v1/documents", content=plain_pdf(1), headers={"content-type": "application/pdf"}
    )
    ask = {"document": document.json()["id"], "name": SECRET, "signatures": [{}, {}]}
    answer = await client.post("/v1/signature-requests", json=ask, headers={"traceparent": CALLER})
    assert answer.status_code == 202, answer.text
    done = await client.get(answer.json()["url"], headers={"prefer": "wait=20"})
    assert done.json()["status"] == "completed", done.text
    return answer


def one(spans: list[Received]) -> Received:
    """The only one."""
    assert len(spans) == 1, spans
    return spans[0]


async def test_request_is_part_of_the_callers_trace(
    traced: tuple[Collector, httpx2.Response],
) -> None:
    """The server's span continues the caller's, names route and status, and the answer tells which it is."""
    collector, answer = traced
    spans = collector.named("POST /v1/signature-requests")
    request = one([s for s in spans if s.trace_id == TRACE])
    assert (request.kind, request.parent_id) == (SERVER, "b7ad6b7169203331")
    assert request.attributes["http.route"] == "/v1/signature-requests"
    assert request.attributes["http.response.status_code"] == 202
    assert answer.headers["traceparent"] == f"00-{TRACE}-{request.span_id}-01"
    assert request.resource["service.name"] == "outlast"
    assert request.resource["outlast.site"] == "berlin"


async def test_commit_belongs_to_the_request_and_links_with_its_flush(
    traced: tuple[Collector, httpx2.Response],
) -> None:
    """The commit is a child; the flush, which others may have shared, is a trace of its own, linked both ways."""
    collector, _ = traced
    request = one(
        [s for s in collector.named("POST /v1/signature-requests") if s.trace_id == TRACE]
    )
    commit = one([s for s in collector.named("commit") if s.trace_id == TRACE])
    assert commit.parent_id == request.span_id
    flush = one([s for s in collector.named("flush") if (TRACE, commit.span_id) in s.links])
    assert commit.links == [(flush.trace_id, flush.span_id)]
    assert flush.trace_id != TRACE
    assert commit.started_ns <= flush.started_ns <= flush.ended_ns <= commit.ended_ns
    assert "outlast.commit.wait_s" in commit.attributes


async def test_jobs_are_traces_linked_with_the_request(
    traced: tuple[Collector, httpx2.Response],
) -> None:
    """All four jobs, each made by the one before it, point to the request; attempt and calls are their parts."""
    collector, answer = traced
    link = (TRACE, answer.headers["traceparent"].split("-")[2])
    (sign, again), (stamp, _) = (
        [s for s in collector.named(f"process signing.{kind}") if s.links == [link]]
        for kind in ("sign", "timestamp")
    )
    assert again.trace_id != sign.trace_id
    assert sign.kind == stamp.kind == CONSUMER
    assert len({TRACE, sign.trace_id, stamp.trace_id}) == 3
    assert sign.attributes["messaging.destination.name"] == "signing.sign"
    attempt = one([s for s in collector.named("attempt") if s.trace_id == sign.trace_id])
    assert attempt.parent_id == sign.span_id
    call = one([s for s in collector.named("sign hsm-room") if s.trace_id == sign.trace_id])
    assert (call.kind, call.parent_id) == (CLIENT, attempt.span_id)
    assert call.attributes == {
        "outlast.provider.name": "hsm-room",
        "outlast.provider.role": "signer",
        "outlast.provider.kind": "remote",
        "outlast.provider.breaker": "closed",
        "outlast.call.outcome": "ok",
    }
    stamped = one([s for s in collector.named("timestamp clock") if s.trace_id == stamp.trace_id])
    assert (stamped.kind, stamped.parent_id) == (CLIENT, stamp.span_id)


async def test_appliance_continues_the_calls_trace(
    traced: tuple[Collector, httpx2.Response],
) -> None:
    """The appliance takes the traceparent: its span is a child of our call, from another service."""
    collector, _ = traced
    signs = collector.named("process signing.sign")
    sign = next(s for s in signs if s.links and s.links[0][0] == TRACE)
    call = one([s for s in collector.named("sign hsm-room") if s.trace_id == sign.trace_id])
    there = await until(
        lambda: [s for s in collector.named("POST /v1/signer/sign") if s.trace_id == call.trace_id],
        "the appliance's span",
    )
    assert (there[0].parent_id, there[0].kind) == (call.span_id, SERVER)
    assert there[0].resource["service.name"] == "appliance"


async def test_nothing_personal_or_secret_is_told(
    traced: tuple[Collector, httpx2.Response],
) -> None:
    """No attribute of any span holds a name, an identifier that callers chose, a token or a passphrase."""
    collector, answer = traced
    told = repr([(s.name, s.attributes, s.resource) for s in collector.spans])
    for hidden in (
        SECRET,
        "not to be seen",
        "letmein",
        answer.json()["id"],
        "Bearer",
        "ol_",
        "%PDF",
    ):
        assert hidden not in told, hidden
    assert {h["x-collector-key"] for h in collector.headers if "x-collector-key" in h} == {
        "letmein"
    }


async def on_site(
    folder: Path,
    telemetry: TelemetrySection,
    work: Callable[[Site, httpx2.AsyncClient], Awaitable[None]],
) -> None:
    """Do something on a site of one software key."""
    config = Config(site=SiteSection(data=str(folder)), telemetry=telemetry)
    async with serving(check(config)) as (site, client):
        await work(site, client)


async def test_problem_and_exemplar_carry_the_trace(tmp_path: Path) -> None:
    """A refused request says its trace id in the body; OpenMetrics shows traces on histograms, the text format none."""

    async def work(site: Site, client: httpx2.AsyncClient) -> None:
        refused = await client.get("/v1/documents/nothing", headers={"traceparent": CALLER})
        assert refused.status_code == 404
        assert refused.json()["trace_id"] == TRACE
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        metrics = await client.get("/metrics", headers=accept)
        assert metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert f'# {{trace_id="{TRACE}"}}' in metrics.text
        assert metrics.text.endswith("# EOF\n")
        assert TRACE not in (await client.get("/metrics")).text

    with running_collector() as collector:
        await on_site(tmp_path, TelemetrySection(endpoint=collector.url, sample_ratio=0.0), work)


async def test_ratio_and_the_callers_word(tmp_path: Path) -> None:
    """At ratio 0 only callers that ask for it are traced; with callers_decide off not even they."""

    async def work(site: Site, client: httpx2.AsyncClient) -> None:
        assert site.tracer is not None
        recorded = site.tracer.recorded
        await client.get("/v1/mode")
        await client.get("/v1/mode", headers={"traceparent": CALLER[:-1] + "0"})
        assert site.tracer.recorded == recorded
        answer = await client.get("/v1/mode", headers={"traceparent": CALLER})
        expected = site.config.telemetry.callers_decide
        assert (site.tracer.recorded > recorded) == expected
        assert (answer.headers["traceparent"] == CALLER) == (not expected)

    with running_collector() as collector:
        for decide in (True, False):
            section = TelemetrySection(
                endpoint=collector.url, sample_ratio=0.0, callers_decide=decide
            )
            await on_site(tmp_path / str(decide), section, work)


@pytest.mark.parametrize("behaviour", ["hang", "refuse", "gone"])
async def test_dead_collector_holds_nothing_up(tmp_path: Path, behaviour: str) -> None:
    """Requests are answered as ever while a collector hangs, refuses or is not there; the site still ends quickly."""
    loop = asyncio.get_running_loop()
    slowest = 0.0

    async def work(site: Site, client: httpx2.AsyncClient) -> None:
        nonlocal slowest
        end_s = loop.time() + 1.5
        while loop.time() < end_s:
            began_s = loop.time()
            assert (await client.get("/v1/mode")).status_code == 200
            slowest = max(slowest, loop.time() - began_s)
        assert site.tracer is not None
        if behaviour == "hang":
            await until(lambda: collector.asked, "the collector was asked")

    with running_collector() as collector:
        if behaviour != "gone":
            collector.behaviour = behaviour  # type: ignore[assignment]  # one of its values
        url = collector.url if behaviour != "gone" else "http://127.0.0.1:9"
        await on_site(tmp_path, TelemetrySection(endpoint=url, sample_ratio=1.0), work)
        assert slowest < 1.0, "an answer waited for the collector"
