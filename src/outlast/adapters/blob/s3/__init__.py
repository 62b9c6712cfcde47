"""Blobs in a bucket of an S3-compatible object store, through obstore (Rust ``object_store``).

    prefix/blobs/_NAME      the bytes; up to PART_BYTES their SHA-256 is in the object's metadata
    prefix/digests/_NAME    the SHA-256 of a larger one, which is known only when its last part has been read

Promises: a put is durable and visible whole or not at all (one request, or a multipart upload that is aborted when
it fails); the digest is there before the blob is; memory per put and get is a few parts, whatever the size; every
call ends, in time that its settings bound. Up to PART_BYTES the first of two writers of other bytes wins
(If-None-Match); larger ones are compared with what is there when they begin, and must not race.

Refuses nothing for its size. Leaves to others: the bucket and its lifecycle rule for uploads that died with their
process, which no client can abort.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import anyio
import msgspec
import obstore
from obstore.store import S3Store

from outlast.adapters.blob.s3.failure import is_present_already, translated
from outlast.adapters.blob.s3.feed import Feed
from outlast.core.blobref import StoredBlob
from outlast.core.errors import Corrupt, Refused
from outlast.ports.blob import MAX_LISTED

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["PART_BYTES", "S3Blobs", "S3Settings"]

PART_BYTES = 5 * 1024 * 1024
"""Size of a part, the least S3 allows; a smaller blob is one request. 10,000 parts are allowed: 48 GiB."""
PARTS_AT_ONCE = 2
"""Parts of one blob under way: bounds memory per put to about three parts."""
PIECE_BYTES = 256 * 1024
"""What an upload is handed at a time."""
READ_BYTES = 256 * 1024
"""Least piece asked for at a time; a piece given out may be a little larger."""
MAX_PRESIGN_S = 3_600
"""Longest life of a pre-signed URL."""
READ_LIMIT_S = 3_600
"""Longest that one blob may take to be read."""
ABORT_S = 10.0
"""How long an interrupted put waits for its upload to be aborted."""

_NAME = re.compile(r"[a-z0-9._-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHA256 = "sha256"


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how. Secrets are passed beside it, so that this can be shown. Times in seconds.

    ``timeout_s`` bounds one request, ``read_timeout_s`` the silence while a blob is read; a request that fails in a
    way worth repeating is repeated ``retries`` times within ``retry_timeout_s``.
    """

    endpoint: str
    bucket: str
    region: str = "us-east-1"
    prefix: str = ""
    ca_pem: bytes = b""
    virtual_hosted: bool = False
    connect_timeout_s: float = 2.0
    timeout_s: float = 30.0
    read_timeout_s: float = 5.0
    retries: int = 2
    retry_timeout_s: float = 10.0


class S3Blobs:
    """A BlobStore and Presigner in one bucket; several processes may use it at once."""

    def __init__(self, settings: S3Settings, access_key: str, secret_key: str) -> None:
        """Connects to nothing yet; raises Refused ``object-store-settings``."""
        self._bucket = settings.bucket
        prefix = settings.prefix.strip("/")
        self._folder = f"{prefix}/blobs" if prefix else "blobs"
        self._digests = f"{prefix}/digests" if prefix else "digests"
        with translated(settings.bucket, ""):
            # two clients: a time limit on a whole request would cut off a long read
            self._store = _client(settings, access_key, secret_key, _limited(settings))
            self._reader = _client(settings, access_key, secret_key, _silence_limited(settings))

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """See BlobStore."""
        _check_name(name)
        head = bytearray()
        async for chunk in chunks:
            head += chunk
            if len(head) > PART_BYTES:
                return await self._put_large(name, head, chunks)
        return await self._put_whole(name, bytes(head))

    async def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See BlobStore. Blobs of up to PART_BYTES are compared with their digest when read from the start."""
        _check_name(name)
        if offset and offset >= await self.size(name):
            return
        options: GetOptions = {"range": {"offset": offset}} if offset else {}
        with translated(self._bucket, name):
            result = await obstore.get_async(self._reader, self._blob(name), options=options)
        expected = result.attributes.get(_SHA256)
        if expected is not None and not offset and result.meta["size"] <= PART_BYTES:
            with translated(self._bucket, name):
                data = bytes(await result.bytes_async())
            if hashlib.sha256(data).hexdigest() != expected:
                raise Corrupt(
                    "blob-corrupt",
                    f"blob {name} is not what was put",
                    hint="`outlast blobs scrub` repairs it from another store's copy.",
                )
            for start in range(0, len(data), READ_BYTES):
                yield data[start : start + READ_BYTES]
            return
        async for piece in self._pieces(name, aiter(result.stream(min_chunk_size=READ_BYTES))):
            yield piece

    async def size(self, name: str) -> int:
        """See BlobStore."""
        _check_name(name)
        with translated(self._bucket, name):
            meta = await obstore.head_async(self._store, self._blob(name))
        return int(meta["size"])

    async def digest(self, name: str) -> str | None:
        """See BlobStore. None for what was put through a pre-signed URL."""
        _check_name(name)
        with translated(self._bucket, name):
            options: GetOptions = {"head": True}
            result = await obstore.get_async(self._store, self._blob(name), options=options)
        return result.attributes.get(_SHA256) or await self._noted_digest(name)

    async def page(self, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        """See BlobStore."""
        found: list[StoredBlob] = []
        start = self._blob(after) if after else None
        with translated(self._bucket, ""):
            listing = obstore.list(
                self._store, self._folder, offset=start, chunk_size=min(limit, MAX_LISTED)
            )
            async for part in listing:
                found += (self._listed(item["path"], item["size"]) for item in part)
                if len(found) >= limit:
                    break
        return tuple(found[:limit])

    async def delete(self, name: str) -> None:
        """See BlobStore."""
        _check_name(name)
        with translated(self._bucket, name):
            with contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._store, self._blob(name))
            with contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._store, self._digest_path(name))

    async def free_bytes(self) -> int | None:
        """S3 does not tell."""
        return None

    async def check(self) -> None:
        """See BlobStore: lists one object, which needs the bucket and the credentials."""
        with translated(self._bucket, ""):
            listing = obstore.list(self._store, self._folder, chunk_size=1)
            async for _ in listing:
                return

    async def presign(self, name: str, method: Literal["GET", "PUT"], ttl_s: int) -> str:
        """See Presigner; made here, without a request. Raises Refused ``presign-ttl``."""
        _check_name(name)
        if not 0 < ttl_s <= MAX_PRESIGN_S:
            raise Refused("presign-ttl", f"a pre-signed URL lives 1 to {MAX_PRESIGN_S} seconds")
        with translated(self._bucket, name):
            ttl = timedelta(seconds=ttl_s)
            return str(await obstore.sign_async(self._store, method, self._blob(name), ttl))

    # -- inside -----------------------------------------------------------------------------------------------

    async def _put_whole(self, name: str, data: bytes) -> int:
        digest = hashlib.sha256(data).hexdigest()
        attributes: Attributes = {_SHA256: digest}
        with translated(self._bucket, name):
            try:
                await obstore.put_async(
                    self._store,
                    self._blob(name),
                    data,
                    attributes=attributes,
                    mode="create",
                    use_multipart=False,
                )
                return len(data)
            except Exception as error:
                if not is_present_already(error):
                    raise
        await self._require_same(name, digest, len(data))
        return len(data)

    async def _put_large(self, name: str, head: bytearray, rest: AsyncIterator[bytes]) -> int:
        if await self._exists(name):
            return await self._compare(name, head, rest)
        feed = Feed()
        upload: asyncio.Future[object] = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                self._blob(name),
                feed.pieces(),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        )
        sha256, size = hashlib.sha256(), 0
        try:
            with translated(self._bucket, name):
                async for piece in _joined(head, rest):
                    sha256.update(piece)
                    size += len(piece)
                    await feed.give(piece, upload)
                await self._note_digest(name, sha256.hexdigest())
                await feed.finish(upload)
        except BaseException:
            # Cancelling the upload would leave its parts behind: its source breaks off instead, and it is aborted.
            feed.break_off()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([upload], timeout=ABORT_S)
            if upload.done() and not upload.cancelled():
                upload.exception()  # looked at, so that nobody is told of it twice
            raise
        return size

    async def _exists(self, name: str) -> bool:
        try:
            await self.size(name)
        except Refused as error:
            if error.code == "blob-not-found":
                return False
            raise
        return True

    async def _compare(self, name: str, head: bytearray, rest: AsyncIterator[bytes]) -> int:
        """What a put of a large blob does that is there already."""
        sha256, size = hashlib.sha256(), 0
        async for piece in _joined(head, rest):
            sha256.update(piece)
            size += len(piece)
        await self._require_same(name, sha256.hexdigest(), size)
        return size

    async def _require_same(self, name: str, digest: str, size: int) -> None:
        known = await self.digest(name)
        if known is None and await self.size(name) == size:
            sha256 = hashlib.sha256()
            async for piece in self.get(name):
                sha256.update(piece)
            known = sha256.hexdigest()
        if known != digest:
            raise Refused("blob-differs", f"blob {name} exists with other bytes")

    async def _note_digest(self, name: str, digest: str) -> None:
        await obstore.put_async(
            self._store, self._digest_path(name), digest.encode(), use_multipart=False
        )

    async def _noted_digest(self, name: str) -> str | None:
        try:
            with translated(self._bucket, name):
                result = await obstore.get_async(self._store, self._digest_path(name))
                text = bytes(await result.bytes_async()).decode("ascii", "replace")
        except Refused as error:
            if error.code == "blob-not-found":
                return None
            raise
        return text if _DIGEST.fullmatch(text) else None

    async def _pieces(self, name: str, stream: AsyncIterator[object]) -> AsyncIterator[bytes]:
        while True:
            with translated(self._bucket, name):
                try:
                    piece = await anext(stream)
                except StopAsyncIteration:
                    return
            yield bytes(piece)  # type: ignore[call-overload]  # a buffer

    def _blob(self, name: str) -> str:
        # the underscore keeps "." and ".." harmless, and the order of names
        return f"{self._folder}/_{name}"

    def _digest_path(self, name: str) -> str:
        return f"{self._digests}/_{name}"

    def _listed(self, path: str, size: int) -> StoredBlob:
        return StoredBlob(path.rsplit("/", 1)[1].removeprefix("_"), size)


def _client(
    settings: S3Settings, access_key: str, secret_key: str, options: ClientConfig
) -> S3Store:
    retry: RetryConfig = {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=settings.retry_timeout_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=50),
            "max_backoff": timedelta(seconds=1),
            "base": 2,
        },
    }
    options["allow_http"] = settings.endpoint.startswith("http://")
    options["connect_timeout"] = timedelta(seconds=settings.connect_timeout_s)
    if settings.ca_pem:
        options["root_certificate"] = settings.ca_pem
    return S3Store(
        settings.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        access_key_id=access_key,
        secret_access_key=secret_key,
        virtual_hosted_style_request=settings.virtual_hosted,
        client_options=options,
        retry_config=retry,
    )


def _limited(settings: S3Settings) -> ClientConfig:
    return {"timeout": timedelta(seconds=settings.timeout_s)}


def _silence_limited(settings: S3Settings) -> ClientConfig:
    return {
        "timeout": timedelta(seconds=READ_LIMIT_S),
        "read_timeout": timedelta(seconds=settings.read_timeout_s),
    }


async def _joined(head: bytearray, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """All of a blob in pieces of at least PIECE_BYTES, the last excepted."""
    view = bytes(head)
    head.clear()
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]
    async for chunk in rest:
        head += chunk
        if len(head) >= PIECE_BYTES:
            yield bytes(head)
            head.clear()
    if head:
        yield bytes(head)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused("bad-blob-name", "a blob name is 1-128 of [a-z0-9._-]")
