"""Reads a bundle's files out of its zip, within bounds and without surprises.

Guarantees: memory stays under ``MAX_UNPACKED_BYTES`` and a bundle's own size, whatever the zip claims; each file has
one plain relative name, given once; nothing is written anywhere. Refuses (``bundle-malformed``) everything that a
bundle made by `bundle` never has: ZIP64, comments, encryption, data before, between or behind the files, odd names, links,
compression other than deflate. A stricter reader leaves no room for two programs to see two different bundles.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib

from outlast.core.errors import Refused

MAX_BUNDLE_BYTES = 256 * 1024 * 1024
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""All files together, in bytes."""
MAX_FILES = 10_000
MAX_NAME_CHARS = 200
MAX_DIRECTORY_BYTES = MAX_FILES * (46 + MAX_NAME_CHARS + 32)
"""Longest central directory read, in bytes."""

_END = struct.Struct("<4s4H2LH")  # APPNOTE.TXT 4.3.16
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES = 20
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_ENCRYPTED = 0x1
_FILE_TYPE_SHIFT, _REGULAR = 28, 0o10


def unpack(data: bytes) -> dict[str, bytes]:
    """Each file's content by its name. Raises Refused ``bundle-malformed``."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise malformed(f"it has more than {MAX_BUNDLE_BYTES} bytes")
    _check_end(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            _check_infos(infos)
            return {info.filename: archive.read(info) for info in infos}
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise malformed(f"it cannot be unpacked ({type(error).__name__})") from error


def _check_end(data: bytes) -> None:
    """Bound the directory before anything builds lists from it."""
    if len(data) < _END.size or data[:4] != b"PK\x03\x04":
        raise malformed("it is not a zip file")
    signature, disk, start_disk, here, total, size, offset, comment = _END.unpack(
        data[-_END.size :]
    )
    if signature != b"PK\x05\x06" or comment:
        raise malformed("something stands behind its last file")
    before_end = data[-_END.size - _ZIP64_LOCATOR_BYTES : -_END.size]
    if disk or start_disk or here != total or before_end.startswith(_ZIP64_LOCATOR):
        raise malformed("it is split, or ZIP64")
    if not 0 < total <= MAX_FILES or size > MAX_DIRECTORY_BYTES:
        raise malformed(f"it has no files, or more than {MAX_FILES}")
    if offset + size + _END.size != len(data):
        raise malformed("its directory is not where it says")


def _check_infos(infos: list[zipfile.ZipInfo]) -> None:
    names: set[str] = set()
    left = MAX_UNPACKED_BYTES
    for info in infos:
        name = info.filename
        if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name) or info.orig_filename != name:
            raise malformed(f"a file is called {name[:80]!a}")
        if name in names:
            raise malformed(f"{name} is in it twice")
        names.add(name)
        file_type = info.external_attr >> _FILE_TYPE_SHIFT
        if info.flag_bits & _ENCRYPTED or file_type not in (0, _REGULAR):
            raise malformed(f"{name} is encrypted, or not a plain file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise malformed(f"{name} is compressed in an unusual way")
        left -= info.file_size
        if left < 0:
            raise malformed(f"its files have more than {MAX_UNPACKED_BYTES} bytes")


def malformed(why: str) -> Refused:
    """The refusal of a file that is no bundle of ours."""
    return Refused(
        "bundle-malformed",
        f"this is not an evidence bundle as Outlast writes it: {why}",
        hint="Take the bundle from the site again, and pass it on unchanged.",
    )
