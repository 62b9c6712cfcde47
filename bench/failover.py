"""Case: what requests notice of a key provider that dies or hangs. See `measure`."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from bench.load import Load, Spec
from bench.measure import Figure, Outcome, Verdict
from bench.prepare import REMOTE_KEY
from bench.servers import drive, scratch
from bench.site import Running, site
from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.clock import SystemClock
from outlast.testing.servers import (
    Appliance,
    TlsFiles,
    make_tls_ca,
    make_tls_files,
    start_appliance,
    write_secret,
)

BEFORE, AFTER = 300, 300
PASSPHRASE = b"benchmark only"


@contextlib.contextmanager
def appliance(folder: pathlib.Path, server: TlsFiles, port: int = 0) -> Iterator[Appliance]:
    """A signing appliance as a process, with one P-256 key."""
    keys = folder / "keys"
    folder.mkdir()
    write_secret(folder / "passphrase", PASSPHRASE)
    asyncio.run(SoftwareSigner(keys, PASSPHRASE).generate(REMOTE_KEY, "ecdsa-p256-sha256"))
    running = start_appliance(
        folder,
        tls=server,
        clients=[{"name": "bench", "common_name": "site", "keys": ["*"]}],
        keystore={
            "kind": "software",
            "directory": str(keys),
            "passphrase_file": str(folder / "passphrase"),
        },
        port=port,
    )
    try:
        yield running
    finally:
        running.process.stop()


class Proxy:
    """`outlast.testing.faultproxy` as a process, told what to do on its standard input."""

    def __init__(self, target: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "outlast.testing.faultproxy", "--target", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().split()[1])

    def tell(self, command: str) -> None:
        """Give a command and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.startswith("ok"):
            raise RuntimeError(f"the proxy answered {command!r} with {answer!r}")

    def close(self) -> None:
        """End it."""
        self._process.communicate("quit\n", timeout=10)


class Scene(msgspec.Struct, frozen=True):
    """A site with two remote providers, the first preferred and behind a proxy."""

    running: Running
    first: Appliance
    proxy: Proxy
    document: str

    def requests(self, count: int) -> Load:
        """``count`` requests, one after the other, each until its document is signed. Those are noted whose
        record says that they asked a provider in vain."""
        step = self.running.sign_step(self.document)
        step = msgspec.structs.replace(step, note_text='"failovers":["')
        return drive(Spec(port=self.running.port, steps=(step,), connections=1, turns=count))


@contextlib.contextmanager
def scene() -> Iterator[Scene]:
    """Everything running, and warm."""
    clock = SystemClock()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("failover"))
        authority = make_tls_ca(folder / "tls", clock)
        server = make_tls_files(folder / "tls", authority, "appliance", "server", clock)
        client = make_tls_files(folder / "tls", authority, "site", "client", clock)
        first = stack.enter_context(appliance(folder / "first", server))
        second = stack.enter_context(appliance(folder / "second", server))
        proxy = Proxy(urlsplit(first.url).netloc)
        stack.callback(proxy.close)
        tables = "".join(
            f'[providers.{name}]\nkind = "remote"\nurl = "{url}"\nca_file = "{client.ca}"\n'
            f'certificate_file = "{client.certificate}"\nkey_file = "{client.key}"\n\n'
            for name, url in (("first", f"https://127.0.0.1:{proxy.port}"), ("second", second.url))
        )
        tables += '[classes.default]\nproviders = ["first", "second"]\n'
        running = stack.enter_context(site(folder, tables))
        made = Scene(running, first, proxy, running.upload())
        made.requests(BEFORE)
        yield made


def p99(latencies: list[float]) -> float:
    """The 99th percentile."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def measure(rounds: int) -> Outcome:
    """Each round kills one provider of a fresh scene and blackholes one of another."""
    kills, holes = [], []
    for _ in range(rounds):
        with scene() as killed:
            before = killed.requests(BEFORE)
            killed.first.process.kill()
            kills.append(Fault(before.latencies_ms, killed.requests(AFTER)))
        with scene() as held:
            before = held.requests(BEFORE)
            held.proxy.tell("blackhole")
            holes.append(Fault(before.latencies_ms, held.requests(AFTER)))
    return _outcome(kills, holes)


class Fault(msgspec.Struct, frozen=True):
    """Latencies (ms) before a fault, and what came after."""

    before: list[float]
    after: Load

    @property
    def later(self) -> list[float]:
        """Latencies from the second request after the fault on."""
        return self.after.latencies_ms[1:]

    @property
    def waited_ms(self) -> float:
        """What the requests that asked in vain took longer than usual, in all."""
        usual = statistics.median(self.before)
        return sum(self.after.latencies_ms[i] - usual for i in self.after.noted)


def _outcome(kills: list[Fault], holes: list[Fault]) -> Outcome:
    added = [p99(fault.later) - p99(fault.before) for fault in kills]
    touched = max(len(fault.after.noted) for fault in holes)
    left = (
        Verdict(
            what="requests that wait for a blackholed provider, at worst",
            value=touched,
            goal=3,
            at_least=False,
            unit="",
        )
        if touched <= 3
        else Verdict(
            what="time until a blackholed provider is left, at worst",
            value=max(fault.waited_ms for fault in holes) / 1000,
            goal=1,
            at_least=False,
            unit="s",
        )
    )

    def figure(name: str, values: list[float]) -> Figure:
        return Figure(name=name, unit="ms", rounds=tuple(values))

    return Outcome(
        case="failover",
        title="Failover",
        method=(
            "Two signing appliances, processes of their own reached over mutual TLS; the class prefers the first. "
            f"One request after the other, each until its document is signed: {BEFORE}, then the first appliance "
            f"gets SIGKILL (in another scene a proxy before it swallows every byte), then {AFTER} more. Any "
            "request that fails ends the benchmark. Added latency: p99 from the second request after the fault on, "
            "less p99 before it. Who waited for a provider in vain is told by the record of the request itself."
        ),
        figures=(
            figure("before, p50", [statistics.median(fault.before) for fault in kills]),
            figure("before, p99", [p99(fault.before) for fault in kills]),
            figure("killed: the first request after", [f.after.latencies_ms[0] for f in kills]),
            figure("killed: p50 from the second on", [statistics.median(f.later) for f in kills]),
            figure("killed: p99 from the second on", [p99(fault.later) for fault in kills]),
            figure("blackholed: the slowest request", [f.after.max_ms for f in holes]),
            figure("blackholed: time lost, all requests", [f.waited_ms for f in holes]),
        ),
        verdicts=(
            Verdict(
                what="p99 added from the second request on, one of two providers killed",
                value=statistics.median(added),
                goal=10,
                at_least=False,
                unit="ms",
                spread=(min(added), max(added)),
            ),
            left,
        ),
    )
