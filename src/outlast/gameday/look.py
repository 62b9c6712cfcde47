"""One document laid open for openssl: its bundle unpacked, and a command that needs no code of ours."""

from __future__ import annotations

import zipfile
from pathlib import Path

import msgspec

from outlast.gameday.folder import Folder

MAX_UNPACKED_BYTES = 64 * 1024 * 1024


class Look(msgspec.Struct, frozen=True):
    """``name`` is the document's and its bundle's name without suffix; in ``openssl``, DATA stands for the folder."""

    name: str
    openssl: str


class _Signature(msgspec.Struct):
    cms: str
    certificates: str
    timestamp_token: str = ""


class _Manifest(msgspec.Struct):
    signatures: tuple[_Signature, ...]


def lay_open(folder: Folder, name: str) -> Look:
    """Unpack a bundle into ``look/``. Blocking."""
    with zipfile.ZipFile(folder.evidence / f"{name}.zip") as bundle:
        if sum(item.file_size for item in bundle.infolist()) > MAX_UNPACKED_BYTES:
            raise ValueError("the bundle is larger than a demo's can be")
        bundle.extractall(folder.look)
        manifest = msgspec.json.decode(bundle.read("bundle.json"), type=_Manifest)
    start, after = _signed_range(folder.look / "signed.pdf")
    cms = manifest.signatures[0].cms
    command = (
        f"( cd DATA/look && {{ head -c {start} signed.pdf; tail -c +{after + 1} signed.pdf; }} > covered.bin &&"
        f" openssl cms -verify -binary -inform DER -in {cms} -content covered.bin"
        " -CAfile ../pki/demo-ca.pem -purpose any -out /dev/null )"
    )
    return Look(name, command)


def _signed_range(pdf: Path) -> tuple[int, int]:
    """Where the signature's own bytes start and end: all others are signed (ISO 32000-2, 12.8.1, ByteRange)."""
    data = pdf.read_bytes()
    at = data.rindex(b"/ByteRange")
    numbers = data[data.index(b"[", at) + 1 : data.index(b"]", at)].split()
    return int(numbers[1]), int(numbers[2])
