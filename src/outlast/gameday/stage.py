"""What is put on stage: certificates, keys and configuration of the site, the appliance and both authorities.

Everything is made here for one game day and trusted by nobody else: the authorities are **not** qualified, and the
signatures are those of a demo. Each process gets a free loopback port that it keeps over its lives.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import msgspec

from outlast.core.clock import Clock
from outlast.core.pki import (
    Authority,
    certificate_pem,
    issue,
    make_ca,
)
from outlast.gameday.folder import Folder
from outlast.gameday.supervisor import Program
from outlast.ports.keys import KeyInfo
from outlast.testing.servers import make_tls_ca, make_tls_files
from outlast.wiring.config import SoftwareProvider, load_config
from outlast.wiring.embedded import ensure_key
from outlast.wiring.providers import software_signer
from outlast.wiring.secrets import secret_or_new

KEY = "contracts"
APPLIANCE, LOCAL = "appliance", "local"
AUTHORITIES = ("tsa-1", "tsa-2")
PATIENCE_MS = 1_000
"""How long a signature waits for a timestamp before it is released owing it."""
DEADLINE_S = 600
FIRST_PORT, PORTS = 15_000, 5_000
"""Where the processes listen."""

_CONFIG = """\
# Written by `outlast demo`: a site with two key providers and two timestamp authorities.

[site]
name = "demo"
data = "site"

[http]
host = "127.0.0.1"
port = {site}
public_log = true

[providers.appliance]            # another Outlast process, over mutual TLS
kind = "remote"
url = "https://127.0.0.1:{appliance}"
ca_file = "appliance/tls/ca.pem"
certificate_file = "appliance/tls/demo-site.pem"
key_file = "appliance/tls/demo-site.key"

[providers.local]                # encrypted key files of the site's own
kind = "software"

[authorities.tsa-1]              # through a proxy that can swallow what is sent
url = "http://127.0.0.1:{proxy}/"
roots_file = "tsa-1/root.pem"

[authorities.tsa-2]
url = "http://127.0.0.1:{tsa_2}/"
roots_file = "tsa-2/root.pem"

[classes.default]
key = "{key}"
level = "B-T"
providers = ["appliance", "local"]
authorities = ["tsa-1", "tsa-2"]
owe_timestamp = true             # no authority answers: release it, and owe the timestamp
timestamp_patience_ms = {patience_ms}
timestamp_deadline_s = {deadline_s}
reserve_bytes = 6144             # room in the file for a signature and its timestamp; these have 2,300 bytes
"""

_TSA = """\
directory = "."
name = "Demo {name}"
port = {port}
"""


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything listens, on 127.0.0.1. ``proxy`` stands before ``tsa_1``."""

    site: int
    appliance: int
    tsa_1: int
    tsa_2: int
    proxy: int


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """The programs of the game day, ready to be started in this order."""

    ports: Ports
    tsa_1: Program
    tsa_2: Program
    proxy: Program
    appliance: Program
    site: Program

    @property
    def url(self) -> str:
        """The site's address."""
        return f"http://127.0.0.1:{self.ports.site}"


class Enrolment(msgspec.Struct, frozen=True):
    """A provider's key and its certificate chain, PEM, signer first: what `PUT /v1/keys/…` takes."""

    provider: str
    key_ref: str
    chain_pem: str


def set_stage(folder: Folder, clock: Clock) -> Stage:
    """Write configuration and TLS certificates. Blocking."""
    numbers = _free_ports(5)
    ports = Ports(
        site=numbers[0],
        appliance=numbers[1],
        tsa_1=numbers[2],
        tsa_2=numbers[3],
        proxy=numbers[4],
    )
    folder.config.write_text(
        _CONFIG.format(
            site=ports.site,
            appliance=ports.appliance,
            proxy=ports.proxy,
            tsa_2=ports.tsa_2,
            key=KEY,
            patience_ms=PATIENCE_MS,
            deadline_s=DEADLINE_S,
        )
    )
    return Stage(
        ports=ports,
        tsa_1=_authority(folder.root, "tsa-1", ports.tsa_1),
        tsa_2=_authority(folder.root, "tsa-2", ports.tsa_2),
        proxy=Program(
            "tsa-1-proxy",
            _python(
                "outlast.testing.faultproxy",
                "--target",
                f"127.0.0.1:{ports.tsa_1}",
                "--port",
                str(ports.proxy),
            ),
        ),
        appliance=_appliance(folder.root / "appliance", ports.appliance, clock),
        site=Program("site", outlast_command("serve", "--config", str(folder.config), "--json")),
    )


def outlast_command(*arguments: str) -> tuple[str, ...]:
    """The ``outlast`` command of this very installation."""
    beside = Path(sys.executable).with_name("outlast")
    return (str(beside) if beside.exists() else "outlast", *arguments)


async def certify_keys(folder: Folder, clock: Clock) -> tuple[Enrolment, Enrolment]:
    """A key of its own at each provider, each with its certificate by the demo's CA."""
    ca = make_ca("Outlast demo CA (not for real use)", "ecdsa-p256-sha256", clock)
    (folder.pki / "demo-ca.pem").write_bytes(certificate_pem(ca.certificate))
    config = load_config(folder.config)
    appliance_keys = SoftwareProvider(
        directory=str(folder.root / "appliance" / "keys"),
        passphrase_file=str(folder.root / "appliance" / "passphrase"),
    )
    made = []
    for provider, keys in ((APPLIANCE, appliance_keys), (LOCAL, config.providers[LOCAL])):
        assert isinstance(keys, SoftwareProvider)
        signer = software_signer(config, keys)
        info = await ensure_key(signer, KEY, "ecdsa-p256-sha256")
        await signer.aclose()
        made.append(_enrolment(ca, provider, info, clock))
    return made[0], made[1]


def collect_roots(folder: Folder) -> None:
    """Put what timestamps are verified against beside the CA of the signers: ``pki/tsa-roots.pem``. The
    authorities have made their roots by now."""
    roots = [(folder.root / name / "root.pem").read_bytes() for name in AUTHORITIES]
    (folder.pki / "tsa-roots.pem").write_bytes(b"".join(roots))


def _enrolment(ca: Authority, provider: str, info: KeyInfo, clock: Clock) -> Enrolment:
    subject = f"Contracts, signed by the {provider} provider (demo)"
    certificate = issue(ca, subject, info.spki_der, "document-signing", clock)
    chain = certificate_pem(certificate) + certificate_pem(ca.certificate)
    return Enrolment(provider, KEY, chain.decode())


def _authority(root: Path, name: str, port: int) -> Program:
    folder = root / name
    folder.mkdir(mode=0o700)
    path = folder / "tsa.toml"
    path.write_text(_TSA.format(name=name, port=port))
    return Program(name, _python("outlast.surfaces.tsa", str(path)))


def _appliance(folder: Path, port: int, clock: Clock) -> Program:
    tls = folder / "tls"
    tls.mkdir(parents=True, mode=0o700)
    ca = make_tls_ca(tls, clock, "Outlast demo TLS CA")
    server = make_tls_files(tls, ca, "demo-appliance", "server", clock)
    make_tls_files(tls, ca, "demo-site", "client", clock)
    secret_or_new(folder / "passphrase")
    config = {
        "port": port,
        "certificate_file": str(server.certificate),
        "key_file": str(server.key),
        "client_ca_file": str(tls / "ca.pem"),
        "audit_file": str(folder / "audit.jsonl"),
        "clients": [{"name": "demo-site", "common_name": "demo-site", "keys": [KEY]}],
        "keystore": {
            "kind": "software",
            "directory": str(folder / "keys"),
            "passphrase_file": str(folder / "passphrase"),
        },
    }
    path = folder / "appliance.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
    return Program("appliance", _python("outlast.surfaces.signer", str(path)))


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, below those that the system gives to clients: while a process is dead, nobody
    else may be given its port (a client on loopback could even connect to itself)."""
    found: list[int] = []
    port = FIRST_PORT + os.getpid() * 37 % PORTS
    while len(found) < count:
        port = FIRST_PORT + (port + 1 - FIRST_PORT) % PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found
