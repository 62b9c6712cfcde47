"""Every timestamp authority passes the one suite of its port (`outlast.testing.suites.timestamp`).

The client of real authorities is tried against two: our own local authority as a process, and ``openssl ts`` behind a
few lines of HTTP.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.adapters.timestamp.rfc3161 import Rfc3161Authority
from outlast.core.asymmetric import generate_private_key, spki_der
from outlast.core.clock import SystemClock
from outlast.core.pki import certificate_pem, issue, make_ca, private_key_pem
from outlast.core.rfc3161 import TsaRules
from outlast.core.tsa import LOCAL_POLICY_OID
from outlast.ports.timestamp import TimestampAuthority
from outlast.testing.faultproxy import FaultProxy, Mode
from outlast.testing.suites.timestamp import ALWAYS, STATES, Check, TimestampBench
from outlast.testing.timestamp import FakeAuthority, Fault, FaultKind

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()
OPENSSL_POLICY = "1.2.3.4.1"


def root_der(path: Path) -> bytes:
    """A PEM certificate as DER."""
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def fake_bench() -> TimestampBench:
    """The fake: all states on command."""

    def opened(fault: FaultKind | None = None, *, down: bool = False) -> Any:
        @asynccontextmanager
        async def context() -> AsyncIterator[TimestampAuthority]:
            fake = FakeAuthority(CLOCK, "fake", qualified=True)
            fake.always(Fault(kind=fault) if fault else None)
            fake.down = down
            yield fake

        return context

    return TimestampBench(
        name="fake",
        open_authority=opened(),
        rules=FakeAuthority(CLOCK, "fake").rules,
        now_ms=CLOCK.now_ms,
        qualified=True,
        killed=opened(down=True),
        hung=opened("hang"),
        rejecting=opened("reject"),
        lying=opened("bad-signature"),
    )


def client_bench(
    name: str, port: int, root: bytes, policy: str, unused_port: int
) -> TimestampBench:
    """The client of an authority that listens on ``port``; each state brought about for real."""
    rules = TsaRules(roots=(root,), policies=frozenset({policy}))

    def opened(
        at: int, rules: TsaRules = rules, policy: str | None = None
    ) -> Callable[[], AbstractAsyncContextManager[TimestampAuthority]]:
        @asynccontextmanager
        async def context() -> AsyncIterator[TimestampAuthority]:
            authority = Rfc3161Authority(
                f"http://127.0.0.1:{at}/tsa", rules, clock=CLOCK, name=name, request_policy=policy
            )
            try:
                yield authority
            finally:
                await authority.aclose()

        return context

    @asynccontextmanager
    async def hung() -> AsyncIterator[TimestampAuthority]:
        async with FaultProxy("127.0.0.1", port) as proxy, opened(proxy.port)() as authority:
            await authority.check()  # so that a connection is open already, and hangs
            mode: Mode = "blackhole"
            await proxy.set(mode)
            yield authority

    return TimestampBench(
        name=name,
        open_authority=opened(port),
        rules=rules,
        now_ms=CLOCK.now_ms,
        killed=opened(unused_port),
        hung=hung,
        rejecting=opened(port, policy="1.2.3.99"),
        lying=opened(
            port, TsaRules(roots=(make_ca("other", "ecdsa-p256-sha256", CLOCK).certificate_der,))
        ),
    )


@pytest.fixture(scope="module")
def local_authority(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[], int]
) -> Iterator[TimestampBench]:
    """Our own authority as a process."""
    folder = tmp_path_factory.mktemp("tsa")
    config = folder / "tsa.toml"
    config.write_text('directory = "identity"\nname = "Test TSA"\n')
    with subprocess.Popen(
        [sys.executable, "-m", "outlast.surfaces.tsa", config], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert line.startswith("listening http://127.0.0.1:"), line
            port = int(line.rpartition(":")[2])
            root = root_der(folder / "identity" / "root.pem")
            yield client_bench("local", port, root, LOCAL_POLICY_OID, free_ports())
        finally:
            process.terminate()
        assert process.wait(10) == 0


OPENSSL_CONFIG = f"""
[tsa]
serial = serial
signer_digest = sha256
default_policy = {OPENSSL_POLICY}
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


@pytest.fixture(scope="module")
def openssl_authority(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[], int]
) -> Iterator[TimestampBench]:
    """``openssl ts -reply`` behind HTTP, one request at a time (its serial number is a file)."""
    assert shutil.which("openssl"), "install openssl (Debian: apt install openssl)"
    folder = tmp_path_factory.mktemp("openssl-tsa")
    ca = make_ca("openssl root", "rsa-pkcs1-sha256", CLOCK)
    key = generate_private_key("rsa-pkcs1-sha256")
    (folder / "tsa.pem").write_bytes(
        certificate_pem(issue(ca, "openssl tsa", spki_der(key), "tsa", CLOCK))
    )
    (folder / "tsa.key").write_bytes(private_key_pem(key))
    (folder / "tsa.cnf").write_text(OPENSSL_CONFIG)
    (folder / "serial").write_text("01\n")
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(405, b"", "text/plain")

        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            with one_at_a_time:
                (folder / "query").write_bytes(query)
                reply = subprocess.run(
                    ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-section", "tsa",
                     "-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key"],
                    cwd=folder, check=True, capture_output=True,
                ).stdout  # fmt: skip
            self.answer(200, reply, "application/timestamp-reply")

        def answer(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # a client that went away: some checks are about that

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield client_bench(
        "openssl", server.server_address[1], ca.certificate_der, OPENSSL_POLICY, free_ports()
    )
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["fake", "local", "openssl"])
def bench(request: pytest.FixtureRequest) -> TimestampBench:
    """Each kind of authority."""
    if request.param == "fake":
        return fake_bench()
    found: TimestampBench = request.getfixturevalue(f"{request.param}_authority")
    return found


@pytest.mark.parametrize("check", ALWAYS, ids=lambda check: check.__name__.removeprefix("check_"))
async def test_conforms(bench: TimestampBench, check: Check) -> None:
    """The authority keeps this part of the port's contract."""
    await check(bench)


@pytest.mark.parametrize("state", STATES)
async def test_conforms_when(bench: TimestampBench, state: str) -> None:
    """So it does in a bad state."""
    assert getattr(bench, state) is not None
    await STATES[state](bench)
