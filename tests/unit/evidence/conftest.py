"""Real bundles, made by a site in this process; and a forger, who can rewrite one down to a log of his own."""

from __future__ import annotations

import asyncio
import hashlib
import io
import pathlib
import zipfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from outlast.core.asymmetric import generate_private_key, spki_der
from outlast.core.clock import SystemClock
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.log.proof import SUFFIX, format_proof, make_proof
from outlast.core.pki import certificate_pem, issue, make_ca, private_key_pem
from outlast.signing.api import Caller, PlaceAsk, SignatureAsk
from outlast.signing.classes import DocumentClass
from outlast.signing.evidence.unpack import unpack
from outlast.surfaces.tsa.identity import CERTIFICATE_FILE, KEY_FILE, ROOT_FILE
from outlast.surfaces.tsa.server import TsaConfig, serve_tsa
from outlast.testing.pdfs import plain_pdf
from outlast.wiring.config import AuthoritySection, Config, SiteSection, check
from outlast.wiring.site import Site, open_site, run_site

TENANT = "default"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle, and what its reader would have pinned beforehand (PEM decoded to DER, vkeys)."""

    data: bytes
    root: bytes
    tsa_root: bytes
    log_keys: tuple[str, ...]


class Forger:
    """A bundle laid open. Change ``manifest``, ``files`` or ``entries`` (decoded), then ``close``."""

    def __init__(self, data: bytes, folder: pathlib.Path) -> None:
        self.files = unpack(data)
        self.manifest: Any = msgspec.json.decode(self.files.pop("bundle.json"))
        self._folder = folder
        self.entries: list[Any] = [
            msgspec.json.decode(self.files[part["entry"]]) for part in self.manifest["entries"]
        ]

    def entry(self, type_: str, nth: int = 0) -> Any:
        """The nth entry of a type."""
        return [e for e in self.entries if e["type"] == type_][nth]

    def renumber(self) -> None:
        """Give streams and clock no gaps again, after entries were added or taken out."""
        versions: dict[str, int] = {}
        for i, entry in enumerate(self.entries):
            versions[entry["stream"]] = entry["seq"] = versions.get(entry["stream"], 0) + 1
            entry["hlc"] = f"{(1 << 60) + i:016x}"
        self.manifest["request"]["version"] = versions.get(
            f"signing.request/{self.manifest['request']['id']}", 0
        )

    def relog(self) -> None:
        """Write the entries into a new log with new keys of the same name, and prove them there."""
        for part in self.manifest["entries"]:
            del self.files[part["entry"]], self.files[part["proof"]]
        leaves = [msgspec.json.encode(entry) for entry in self.entries]
        key = LogKey.generate(self.manifest["origin"])
        archive = TileArchive(self._folder)
        head = archive.grow(0, leaves)
        checkpoint = sign_checkpoint(
            self.manifest["origin"], head.size, head.root, key.signers, time_s=1
        )
        archive.publish(checkpoint)
        reader = archive.node_reader(head.size)
        self.manifest["entries"] = []
        for i, leaf in enumerate(leaves):
            entry, proof = f"log/entries/{i}.json", f"log/proofs/{i}{SUFFIX}"
            self.files[entry] = leaf
            self.files[proof] = format_proof(make_proof(i, checkpoint, reader))
            self.manifest["entries"].append(
                {"index": i, "type": self.entries[i]["type"], "entry": entry, "proof": proof}
            )
        self.files["log/keys.txt"] = "".join(f"{vkey}\n" for vkey in key.vkeys).encode()

    def close(self, *, relog: bool = True, relist: bool = True) -> bytes:
        """The bundle; ``relist``: its manifest lists the files as they are now."""
        if relog:
            self.relog()
        if relist:
            self.manifest["files"] = {
                name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                for name, content in self.files.items()
            }
        return pack({"bundle.json": msgspec.json.encode(self.manifest), **self.files})


def pack(files: dict[str, bytes]) -> bytes:
    """A plain zip of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(name="pack")
def pack_files() -> Callable[[dict[str, bytes]], bytes]:
    """Makes a plain zip of files."""
    return pack


@pytest.fixture
def forge(tmp_path: pathlib.Path) -> Callable[[bytes], Forger]:
    """Lays a bundle open for forging."""
    return lambda data: Forger(data, tmp_path / "forged")


@pytest.fixture(scope="session")
def pades(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One PAdES B-B signature."""
    return asyncio.run(_made(tmp_path_factory.mktemp("pades"), DocumentClass(), 1))


@pytest.fixture(scope="session")
def stamped(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two PAdES B-T signatures, each with its own timestamp."""
    folder = tmp_path_factory.mktemp("stamped")
    return asyncio.run(_made(folder, DocumentClass(level="B-T"), 2, clock="there"))


@pytest.fixture(scope="session")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two PAdES signatures whose owed timestamps were settled by one over the document."""
    late = DocumentClass(level="B-T", owe_timestamp=True, timestamp_patience_ms=0)
    folder = tmp_path_factory.mktemp("settled")
    return asyncio.run(_made(folder, late, 2, clock="late"))


@pytest.fixture(scope="session")
def owing(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One PAdES signature whose timestamp is still owed."""
    late = DocumentClass(level="B-T", owe_timestamp=True, timestamp_patience_ms=0)
    return asyncio.run(_made(tmp_path_factory.mktemp("owing"), late, 1, clock="never"))


@pytest.fixture(scope="session")
def detached(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two detached CMS signatures, with timestamps."""
    folder = tmp_path_factory.mktemp("detached")
    document_class = DocumentClass(level="B-T")
    return asyncio.run(_made(folder, document_class, 2, clock="there", is_pdf=False))


async def _made(
    folder: pathlib.Path,
    document_class: DocumentClass,
    signatures: int,
    *,
    clock: str = "",
    is_pdf: bool = True,
) -> Made:
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    tsa_config = TsaConfig(directory=str(folder / "tsa"))

    def start(port: int) -> asyncio.Task[None]:
        config = msgspec.structs.replace(tsa_config, port=port)
        return asyncio.create_task(
            serve_tsa(config, on_listening=lambda _, p: listening.done() or listening.set_result(p))
        )

    tasks: list[asyncio.Task[Any]] = []
    config = Config(
        site=SiteSection(data=str(folder / "data")),
        classes={"default": document_class},
    )
    if clock:
        _make_lasting_identity(folder / "tsa")
        tasks.append(start(0))
        port = await listening
        if clock != "there":
            await _ended(tasks)
        section = AuthoritySection(
            url=f"http://127.0.0.1:{port}", roots_file=str(folder / "tsa" / ROOT_FILE)
        )
        config = msgspec.structs.replace(config, authorities={"clock": section})
    try:
        async with open_site(check(config)) as site:
            tasks.append(asyncio.create_task(run_site(site)))
            request_id = await _signed(site, signatures, is_pdf)
            if clock == "late":
                tasks.append(start(port))
                await _until(site, request_id, "present")
            data = await site.evidence.bundle(TENANT, request_id)
            await _ended(tasks)
            for authority in site.world.authorities.values():
                await authority.aclose()
    finally:
        await _ended(tasks)
    tsa_root = folder / "tsa" / ROOT_FILE
    return Made(
        data=data,
        root=_der(folder / "data" / "pki" / "ca.pem"),
        tsa_root=_der(tsa_root) if tsa_root.exists() else b"",
        log_keys=site.log_vkeys,
    )


def _make_lasting_identity(folder: pathlib.Path) -> None:
    """An authority whose certificate outlives the signers'."""
    now, name = SystemClock(), "Lasting TSA"
    root, key = (
        make_ca(f"{name} root", "ecdsa-p256-sha256", now),
        generate_private_key("ecdsa-p256-sha256"),
    )
    certificate = issue(root, name, spki_der(key), "tsa", now, validity_days=3000)
    folder.mkdir()
    (folder / KEY_FILE).write_bytes(private_key_pem(key))
    (folder / CERTIFICATE_FILE).write_bytes(certificate_pem(certificate))
    (folder / ROOT_FILE).write_bytes(certificate_pem(root.certificate))


async def _signed(site: Site, signatures: int, is_pdf: bool) -> str:
    caller = Caller(TENANT, "tester")

    async def chunks() -> AsyncIterator[bytes]:
        yield plain_pdf(2) if is_pdf else b"not a PDF"

    media_type = "application/pdf" if is_pdf else "text/plain"
    added = await site.signing.add_document(caller, chunks(), media_type=media_type, title="T")
    asked = await site.signing.request(
        caller,
        SignatureAsk(document=added.stream, signatures=(PlaceAsk(),) * signatures, name="Ada"),
    )
    await _until(site, asked.stream, "")
    return asked.stream


async def _until(site: Site, request_id: str, timestamps: str) -> None:
    """Until the request is completed, and all its timestamps are in a state."""
    async with asyncio.timeout(30):
        while True:
            view = await site.signing.get(Caller(TENANT, "tester"), request_id)
            states = {s.timestamp.state for s in view.signatures}
            if view.status == "completed" and (not timestamps or states == {timestamps}):
                return
            await asyncio.sleep(0.02)


async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


def _der(path: pathlib.Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
