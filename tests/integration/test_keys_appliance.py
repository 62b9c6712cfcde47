"""The signing appliance as a real process: who gets in, what is audited, how it ends."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from outlast.adapters.exchange import ExchangeLimits
from outlast.adapters.keys.remote import RemoteSigner, client_tls
from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.clock import ManualClock, SystemClock
from outlast.core.errors import Refused, Unavailable, Unknown
from outlast.ports.keys import SignRequest
from outlast.testing.servers import (
    Appliance,
    ServerFailed,
    TlsFiles,
    make_tls_ca,
    make_tls_files,
    start_appliance,
    write_secret,
)

pytestmark = pytest.mark.anyio

P256 = "ecdsa-p256-sha256"
PASSPHRASE = b"a passphrase that is nowhere to be seen"


def request(operation: str, key_ref: str = "mine", tbs: bytes = b"tbs") -> SignRequest:
    """A request to a P-256 key."""
    return SignRequest(key_ref=key_ref, algorithm=P256, tbs=tbs, operation=operation)


class Site:
    """Certificates, keys, and one appliance for clients site-a (by name) and site-b (by fingerprint)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.ca = make_tls_ca(folder, self.clock)
        self.server = make_tls_files(folder, self.ca, "server", "server", self.clock)
        self.a = self.client("site-a")
        self.b = self.client("site-b")
        self.stranger = self.client("site-c")
        write_secret(folder / "passphrase", PASSPHRASE)
        anyio.run(self._generate)

    def client(self, name: str) -> TlsFiles:
        """Another client's certificate and key."""
        return make_tls_files(self.folder, self.ca, name, "client", self.clock)

    async def _generate(self) -> None:
        signer = SoftwareSigner(self.folder / "keys", PASSPHRASE)
        for key_ref in ("mine", "theirs"):
            await signer.generate(key_ref, P256)

    @property
    def keystore(self) -> dict[str, str]:
        """As in the configuration file; relative to it."""
        return {"kind": "software", "directory": "../keys", "passphrase_file": "../passphrase"}

    def start(self, name: str = "run", port: int = 0) -> Appliance:
        """Start an appliance."""
        certificate = x509.load_pem_x509_certificate(self.b.certificate.read_bytes())
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        return start_appliance(
            self.folder / name,
            tls=self.server,
            clients=[
                {"name": "a", "common_name": "site-a", "keys": ["mine"]},
                {"name": "b", "fingerprint_sha256": fingerprint, "keys": ["*"]},
            ],
            keystore=self.keystore,
            port=port,
        )

    def audit(self, name: str = "run") -> list[dict[str, object]]:
        """What has been audited so far."""
        text = (self.folder / name / "audit.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The files."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def appliance(site: Site) -> Iterator[Appliance]:
    """One appliance for the tests that leave it whole."""
    appliance = site.start()
    yield appliance
    assert appliance.process.stop() == 0


@asynccontextmanager
async def connected(url: str, tls: TlsFiles) -> AsyncIterator[RemoteSigner]:
    """A client."""
    context = client_tls(tls.ca, tls.certificate, tls.key)
    signer = RemoteSigner(
        url, context, limits=ExchangeLimits(connect_timeout_s=10.0, answer_timeout_s=10.0)
    )
    try:
        yield signer
    finally:
        await signer.aclose()


async def test_each_client_has_its_keys(site: Site, appliance: Appliance) -> None:
    """By name or by fingerprint, a client reaches its own keys and no others; a stranger of the same CA none."""
    async with connected(appliance.url, site.a) as a, connected(appliance.url, site.b) as b:
        assert await a.sign(request("keys/a"))
        assert await b.sign(request("keys/b", "theirs"))
        for call in (a.sign(request("keys/c", "theirs")), a.describe("theirs")):
            with pytest.raises(Refused, match="key-not-allowed"):
                await call
    async with connected(appliance.url, site.stranger) as stranger:
        with pytest.raises(Refused, match="credentials-refused"):
            await stranger.sign(request("keys/d"))


async def test_a_repeated_operation_gets_the_same_signature(
    site: Site, appliance: Appliance
) -> None:
    """Over another connection too; ECDSA signatures are random, so equal ones were made once."""
    async with connected(appliance.url, site.a) as first:
        signature = await first.sign(request("repeat/1/1"))
    async with connected(appliance.url, site.a) as second:
        assert await second.sign(request("repeat/1/1")) == signature
        assert await second.sign(request("repeat/1/2")) != signature
        with pytest.raises(Refused, match="idempotency-key-reused"):
            await second.sign(request("repeat/1/1", tbs=b"other"))


async def test_the_audit_names_client_and_digests(site: Site, appliance: Appliance) -> None:
    """A line per request in the file, without the bytes and without the passphrase."""
    async with connected(appliance.url, site.a) as signer:
        await signer.sign(request("audited/1/1", tbs=b"confidential bytes"))
    lines = [line for line in site.audit() if line["operation"] == "audited/1/1"]
    assert [(line["client"], line["key"], line["outcome"]) for line in lines] == [
        ("a", "mine", "signed")
    ]
    printed = (site.folder / "run" / "audit.jsonl").read_text() + appliance.process.log.read_text()
    assert "confidential" not in printed
    assert PASSPHRASE.decode() not in printed


def handshake(appliance: Appliance, context: ssl.SSLContext) -> bytes:
    """Connect, ask for /livez and return what comes back; raises ssl.SSLError."""
    port = int(appliance.url.rsplit(":", 1)[1])
    with (
        socket.create_connection(("127.0.0.1", port), 2) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return tls.recv(1000)


def test_tls_1_3_and_a_certificate_are_required(site: Site, appliance: Appliance) -> None:
    """No certificate, and TLS 1.2, end with an alert; plain HTTP gets nothing."""
    context = ssl.create_default_context(cafile=site.a.ca)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        handshake(appliance, context)
    context.load_cert_chain(site.a.certificate, site.a.key)
    assert b"200 OK" in handshake(appliance, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        handshake(appliance, context)


async def test_an_expired_client_certificate_is_refused(site: Site, appliance: Appliance) -> None:
    """TLS turns it away, and the client is told that it is the certificate."""
    past = ManualClock(1_500_000_000_000)
    (site.folder / "old").mkdir()
    old = make_tls_files(site.folder / "old", site.ca, "site-a", "client", past)
    tls = TlsFiles(ca=site.a.ca, certificate=old.certificate, key=old.key)
    async with connected(appliance.url, tls) as signer:
        with pytest.raises(Refused, match="credentials-refused"):
            await signer.check()


@pytest.fixture
def other_site(tmp_path: Path) -> Site:
    """Another site, with a CA of its own."""
    return Site(tmp_path)


async def test_a_false_server_gets_no_request(site: Site, other_site: Site) -> None:
    """A server whose certificate is of another CA is Unavailable, and another provider is advised."""
    appliance = other_site.start()
    try:
        async with connected(appliance.url, site.a) as signer:
            with pytest.raises(Unavailable, match="certificate is not the one") as caught:
                await signer.sign(request("false/1/1"))
            assert caught.value.retry == "elsewhere"
    finally:
        appliance.process.stop()


async def test_killed_during_a_call_is_unknown_then_unavailable(site: Site) -> None:
    """The call in flight may have signed; the next cannot connect; a restart on the port heals the client."""
    first = site.start("killed")
    port = int(first.url.rsplit(":", 1)[1])
    async with connected(first.url, site.a) as signer:
        await signer.check()
        first.process.suspend()

        async def in_flight() -> None:
            with pytest.raises(Unknown, match=r"provider-answer-lost|provider-bad-answer"):
                await signer.sign(request("killed/1/1"))

        async with anyio.create_task_group() as group:
            group.start_soon(in_flight)
            await anyio.sleep(0.1)
            first.process.kill()
        with anyio.fail_after(1), pytest.raises(Unavailable):
            await signer.sign(request("killed/1/2"))
        second = site.start("restarted", port=port)
        try:
            assert await signer.sign(request("killed/1/3"))
        finally:
            second.process.stop()


async def test_no_connection_is_left_by_cancelled_handshakes(site: Site) -> None:
    """Callers who give up while the appliance hangs in the handshake leave no socket open."""
    appliance = site.start("handshakes")
    appliance.process.suspend()
    try:
        before = open_sockets()
        async with connected(appliance.url, site.a) as signer:
            for number in range(10):
                with anyio.move_on_after(0.02):
                    await signer.sign(request(f"handshake/{number}/1"))
            for _ in range(250):
                if open_sockets() <= before:
                    break
                await anyio.sleep(0.02)
            assert open_sockets() <= before
    finally:
        appliance.process.stop()


def open_sockets() -> int:
    """How many sockets this process has open."""
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


def run_appliance(config: Path) -> subprocess.CompletedProcess[str]:
    """Start it and wait for its end."""
    command = [sys.executable, "-m", "outlast.surfaces.signer", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.usefixtures("appliance")  # its configuration is what is changed here
def test_wrong_configurations_end_with_status_2(site: Site, tmp_path: Path) -> None:
    """An unknown field, a readable secret, a missing certificate and a port in use each say what is wrong."""
    good = msgspec.json.decode((site.folder / "run" / "appliance.json").read_bytes())
    open_secret = tmp_path / "open"
    open_secret.write_bytes(PASSPHRASE)
    open_secret.chmod(0o644)
    keystore = {"kind": "software", "directory": str(site.folder / "keys")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = {
            "unknown field": good | {"colour": "red"},
            "open": good | {"keystore": keystore | {"passphrase_file": str(open_secret)}},
            "No such file": good | {"certificate_file": "nowhere.pem"},
            "in use": good | {"port": taken.getsockname()[1]},
        }
        for expected, config in cases.items():
            path = site.folder / "run" / "wrong.json"
            path.write_bytes(msgspec.json.encode(config))
            result = run_appliance(path)
            assert result.returncode == 2, expected
            assert expected in result.stderr
            assert "Traceback" not in result.stderr


def test_a_server_that_does_not_start_says_why(site: Site, tmp_path: Path) -> None:
    """What the demo and the tests start fails with the process's own words."""
    with pytest.raises(ServerFailed, match="config-invalid"):
        start_appliance(tmp_path, tls=site.server, clients=[], keystore={"kind": "paper"})


def test_sigterm_ends_it_cleanly(site: Site) -> None:
    """Status 0, and nothing on standard error."""
    appliance = site.start("terminated")
    assert appliance.process.stop() == 0
    assert appliance.process.log.read_text().splitlines()[1:] == []
