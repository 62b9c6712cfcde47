"""Builds an evidence bundle: a zip with the signed file, certificates, timestamps, history and log proofs.

    bundle.json               what is in it, with SHA-256 of every other file
    README.txt                how to check it with public tools
    signed.pdf                the signed file (document.bin and signed-N.p7s for a detached CMS)
    certificates/N.pem        the chain of signature N, signer first
    signatures/N.p7s          its CMS as it stands in the file
    timestamps/N.tsr, N.tst   the authority's response, and the token alone
    log/entries/I.json        log entries, byte for byte as first written
    log/proofs/I.tlog-proof   their inclusion proofs, each with the signed checkpoint (C2SP tlog-proof)
    log/keys.txt              the log's public keys (C2SP vkey), to be compared with ones pinned earlier

The same request at the same state gives the same bytes, but for the checkpoint. Nothing in it needs this program.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.errors import Refused, Unavailable
from outlast.core.log.archive import TileArchive
from outlast.core.log.entry import decode_entry
from outlast.core.log.proof import SUFFIX, format_proof, make_proof
from outlast.core.store.port import Store, StreamKey
from outlast.signing.cms import der
from outlast.signing.evidence.manifest import (
    MANIFEST,
    EntryPart,
    FileFact,
    Manifest,
    SignaturePart,
)
from outlast.signing.evidence.readme import readme
from outlast.signing.model import document as documents
from outlast.signing.model import key as keys
from outlast.signing.model import request as requests
from outlast.signing.pdf.revision import ContentsPlace, contents
from outlast.signing.views import request_view
from outlast.signing.world import World

PUBLISH_WAIT_S = 10.0
"""How long a bundle waits for the checkpoint over its newest entry."""
BUNDLES_AT_ONCE = 2
"""Bundles made at a time; further ones wait."""
MAX_ENTRIES = 2_000
"""Log entries of one request that a bundle carries."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Published(Protocol):
    """`outlast.core.publish.Publisher`, as far as evidence needs it."""

    async def wait_for(self, index: int, timeout_s: float) -> bool:
        """Whether an entry is under a published checkpoint in time."""
        ...


class Evidence:
    """Makes bundles for one site."""

    def __init__(
        self,
        world: World,
        store: Store,
        archive: TileArchive,
        publisher: Published,
        *,
        origin: str,
        vkeys: tuple[str, ...],
        made_by: str,
    ) -> None:
        self._world = world
        self._store = store
        self._archive = archive
        self._publisher = publisher
        self._origin = origin
        self._vkeys = vkeys
        self._made_by = made_by
        self._turns = asyncio.Semaphore(BUNDLES_AT_ONCE)

    async def bundle(self, tenant: str, request_id: str) -> bytes:
        """The bundle of a request that has a signed file.

        Raises Refused ``request-not-found``, ``not-signed-yet``; Unavailable ``not-published-yet``. At most
        BUNDLES_AT_ONCE are made at a time: each holds the document in memory twice.
        """
        async with self._turns:
            return await self._bundle(tenant, request_id)

    async def _bundle(self, tenant: str, request_id: str) -> bytes:
        row = await self._store.stream(StreamKey(tenant, requests.KIND, request_id))
        if row is None:
            raise Refused("request-not-found", "no such signature request")
        request: requests.Request = self._world.deciders.decode_state(requests.KIND, row.state)
        if request.revision is None:
            raise Refused(
                "not-signed-yet", f"the request is {request.label}", retry="later", retry_after_s=1
            )
        details = await self._world.details(tenant, request.document, request_id, request.sealed)
        view = request_view(request_id, row.version, request, details)
        parts = _Parts()
        signed, document = await self._files(parts, tenant, request)
        signatures = [
            await self._signature(parts, tenant, request, i)
            for i, s in enumerate(request.signatures)
            if s.revision is not None
        ]
        entries = await self._entries(parts, tenant, request_id, request)
        parts.add("log/keys.txt", "".join(f"{vkey}\n" for vkey in self._vkeys).encode())
        manifest = Manifest(
            made_by=self._made_by,
            origin=self._origin,
            signed=signed,
            document=document,
            request=view,
            signatures=tuple(signatures),
            entries=tuple(entries),
            files={},
        )
        parts.add("README.txt", readme(manifest, request).encode())
        return await asyncio.to_thread(parts.zip, manifest)

    async def _files(
        self, parts: _Parts, tenant: str, request: requests.Request
    ) -> tuple[tuple[str, ...], str]:
        bodies = self._world.bodies
        if request.format == "pades":
            assert request.revision is not None
            parts.add("signed.pdf", await bodies.read(tenant, request.revision.blob))
            return ("signed.pdf",), ""
        document = await self._world.document(tenant, request.document)
        parts.add("document.bin", await bodies.read(tenant, document.blob))
        names = []
        for i, signature in enumerate(request.signatures):
            if signature.revision is not None:
                names.append(f"signed-{i + 1}.p7s")
                parts.add(names[-1], await bodies.read(tenant, signature.revision.blob))
        return tuple(names), "document.bin"

    async def _signature(
        self, parts: _Parts, tenant: str, request: requests.Request, place: int
    ) -> SignaturePart:
        signature, number = request.signatures[place], place + 1
        pin = signature.pin
        assert pin is not None
        key = await self._world.key(tenant, signature.key)
        binding = key.by_fingerprint(pin.fingerprint)
        certificates = f"certificates/{number}.pem"
        parts.add(certificates, _pem(binding.chain if binding else ()))
        cms = self._cms(parts, request, place)
        if cms:
            parts.add(f"signatures/{number}.p7s", cms)
        response = token_name = ""
        if signature.stamp is not None:
            response, token_name = f"timestamps/{number}.tsr", f"timestamps/{number}.tst"
            raw = await self._world.bodies.read(tenant, signature.stamp.blob)
            parts.add(response, raw)
            parts.add(token_name, _token(raw))
        return SignaturePart(
            place=place,
            certificates=certificates,
            cms=f"signatures/{number}.p7s" if cms else "",
            timestamp_response=response,
            timestamp_token=token_name,
            document_timestamp=signature.stamp.document if signature.stamp else False,
        )

    def _cms(self, parts: _Parts, request: requests.Request, place: int) -> bytes:
        if request.format == "cms":
            return parts.content[f"signed-{place + 1}.p7s"]
        revision = request.signatures[place].revision
        if revision is None or not revision.reserved_bytes:
            return b""
        # a later revision only appends, so every signature stands where it was put
        at = ContentsPlace(revision.contents_offset, revision.reserved_bytes)
        return contents(parts.content["signed.pdf"], at)

    async def _entries(
        self, parts: _Parts, tenant: str, request_id: str, request: requests.Request
    ) -> list[EntryPart]:
        streams = [
            StreamKey(tenant, documents.KIND, request.document),
            StreamKey(tenant, requests.KIND, request_id),
            *(StreamKey(tenant, keys.KIND, name) for name in {s.key for s in request.signatures}),
        ]
        found: dict[int, bytes] = {}
        for stream in streams:
            found.update(await self._store.stream_entries(stream, MAX_ENTRIES))
        newest = max(found)
        if not await self._publisher.wait_for(newest, PUBLISH_WAIT_S):
            raise Unavailable(
                "not-published-yet",
                "the log's checkpoint does not cover this request yet",
                hint="Try again in a moment; if it stays so, see `outlast status`.",
                retry_after_s=1,
            )
        return await asyncio.to_thread(self._proven, parts, found)

    def _proven(self, parts: _Parts, found: dict[int, bytes]) -> list[EntryPart]:
        """The entries with their proofs. Reads tiles: not on the event loop."""
        checkpoint = self._archive.read_checkpoint()
        assert checkpoint is not None
        published = self._archive.published()
        assert published is not None
        reader = self._archive.node_reader(published.size)
        made = []
        for index in sorted(found):
            entry, proof = f"log/entries/{index}.json", f"log/proofs/{index}{SUFFIX}"
            parts.add(entry, found[index])
            parts.add(proof, format_proof(make_proof(index, checkpoint, reader)))
            made.append(EntryPart(index, decode_entry(found[index]).type, entry, proof))
        return made


class _Parts:
    """Files on their way into a bundle."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def add(self, name: str, content: bytes) -> None:
        self.content[name] = content

    def zip(self, manifest: Manifest) -> bytes:
        facts = {
            name: FileFact(hashlib.sha256(content).hexdigest(), len(content))
            for name, content in self.content.items()
        }
        manifest = msgspec.structs.replace(manifest, files=facts)
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {MANIFEST: encoded, **self.content}.items():
                info = zipfile.ZipInfo(name, _EPOCH)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        return buffer.getvalue()


def _pem(chain: tuple[bytes, ...]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)


def _token(response: bytes) -> bytes:
    """The TimeStampToken of a TimeStampResp: its second element (RFC 3161, 2.4.2)."""
    parts = list(der.read(response).children())
    return parts[1].whole if len(parts) > 1 else b""
