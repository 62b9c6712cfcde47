"""`outlast verify` on every kind of file: the verdict, what it says, and the exit status."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import pytest

from outlast.core.clock import SystemClock
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.log.proof import format_proof, make_proof
from outlast.core.pki import certificate_pem
from outlast.signing.pdf.prepare import prepare_revision
from outlast.signing.pdf.slots import SignatureFields
from outlast.surfaces.cli.main import main
from outlast.testing.pdfs import LocalSigner, plain_pdf

SOME_TIME_MS = SystemClock().now_ms()


@pytest.fixture(scope="module")
def signer() -> LocalSigner:
    """A signer with an authority of its own."""
    return LocalSigner.make("ecdsa-p256-sha256", SystemClock())


@pytest.fixture
def root(tmp_path: pathlib.Path, signer: LocalSigner) -> str:
    """That authority's certificate, as a file."""
    path = tmp_path / "root.pem"
    path.write_bytes(certificate_pem(signer.authority.certificate))
    return str(path)


@pytest.fixture
def signed(tmp_path: pathlib.Path, signer: LocalSigner) -> pathlib.Path:
    """A signed PDF."""
    original = plain_pdf()
    fields = SignatureFields(signing_time_ms=SOME_TIME_MS)
    document, _ = signer.sign(original, prepare_revision(original), fields)
    path = tmp_path / "signed.pdf"
    path.write_bytes(document)
    return path


@pytest.fixture
def detached(tmp_path: pathlib.Path, signer: LocalSigner) -> pathlib.Path:
    """A text and its detached signature."""
    (tmp_path / "note.txt").write_bytes(b"a note")
    path = tmp_path / "note.txt.p7s"
    path.write_bytes(signer.detached(hashlib.sha256(b"a note").digest(), SOME_TIME_MS))
    return path


def verify(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    """Exit status and report of one file."""
    capsys.readouterr()
    status = main(["verify", "--json", *map(str, arguments)])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else None


def test_a_signed_pdf(signed: pathlib.Path, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Valid with its root pinned; intact but open without; --strict counts that as failed."""
    status, report = verify(capsys, signed, "--trust", root)
    assert (status, report["verdict"]) == (0, "valid")
    status, report = verify(capsys, signed)
    assert (status, report["verdict"]) == (0, "untrusted")
    assert verify(capsys, signed, "--strict")[0] == 1


def test_another_root_is_a_negative_verdict(
    signed: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who pins a root does not accept what leads to another."""
    other = LocalSigner.make("ecdsa-p256-sha256", SystemClock(), "Another")
    path = tmp_path / "other.pem"
    path.write_bytes(certificate_pem(other.authority.certificate))
    status, report = verify(capsys, signed, "--trust", path)
    assert (status, report["verdict"]) == (1, "invalid")
    assert "leads to no pinned root" in report["reason"]


def test_a_changed_pdf(signed: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed byte is a broken signature; bytes behind the signature are not passed over."""
    content = signed.read_bytes()
    signed.write_bytes(content.replace(b"595 842", b"595 843", 1))
    assert verify(capsys, signed)[0] == 1
    signed.write_bytes(content + b"\n% more\n")
    status, report = verify(capsys, signed)
    assert (status, report["verdict"]) == (1, "indeterminate")
    assert "no revision" in report["reason"]


def test_an_unsigned_pdf(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No signature is no acceptance."""
    path = tmp_path / "plain.pdf"
    path.write_bytes(plain_pdf())
    status, report = verify(capsys, path)
    assert status == 1
    assert report["reason"] == "the document has no signature"


def test_a_detached_signature(
    detached: pathlib.Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its file beside it, or named; not without; not with another."""
    assert verify(capsys, detached, "--trust", root)[1]["verdict"] == "valid"
    content = detached.with_name("note.txt").rename(detached.with_name("moved"))
    status, report = verify(capsys, detached)
    assert (status, report["verdict"]) == (1, "indeterminate")
    assert verify(capsys, detached, "--content", content, "--trust", root)[0] == 0
    content.write_bytes(b"another note")
    status, report = verify(capsys, detached, "--content", content)
    assert (status, report["verdict"]) == (1, "invalid")


def test_a_log_proof(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry with its proof, under a pinned key; another entry, another key."""
    key, archive = LogKey.generate("log.example/x"), TileArchive(tmp_path / "log")
    entries = [b"{}", b'{"a":1}', b'{"b":2}']
    head = archive.grow(0, entries)
    checkpoint = sign_checkpoint(key.name, head.size, head.root, key.signers)
    archive.publish(checkpoint)
    proof = tmp_path / "1.tlog-proof"
    proof.write_bytes(format_proof(make_proof(1, checkpoint, archive.node_reader(3))))
    status, report = verify(capsys, proof, "--log-key", key.vkeys[0])
    assert (status, report["verdict"]) == (1, "indeterminate")
    entry = tmp_path / "1.json"
    entry.write_bytes(entries[1])
    pins = tmp_path / "keys"
    pins.write_text(f"# the log's keys\n\n{key.vkeys[0]}\n{key.vkeys[1]}\n")
    assert verify(capsys, proof, "--log-key", pins)[1]["verdict"] == "valid"
    assert verify(capsys, proof)[0] == 1
    other = LogKey.generate("log.example/x").vkeys[0]
    assert verify(capsys, proof, "--log-key", other)[1]["verdict"] == "invalid"
    entry.write_bytes(entries[2])
    assert verify(capsys, proof, "--log-key", key.vkeys[0])[1]["verdict"] == "invalid"


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"c2sp.org/tlog-proof@v1\n", b"0\x80", b"?"]
)
def test_what_is_nothing_of_ours(
    content: bytes, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beginnings of each kind, and of none, are judged without a traceback."""
    path = tmp_path / "thing.zip"
    path.write_bytes(content)
    status, report = verify(capsys, path)
    assert status == 1
    assert report["verdict"] != "valid"


def test_a_folder_is_searched(
    signed: pathlib.Path, detached: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that can be verified in it, a line each; the one that fails decides."""
    assert main(["verify", str(signed.parent)]) == 0
    out = capsys.readouterr().out
    assert out.count("intact, but nothing pinned says by whom") == 2
    signed.with_name("plain.pdf").write_bytes(plain_pdf())
    assert main(["verify", str(signed.parent)]) == 1
    captured = capsys.readouterr()
    assert "the document has no signature" in captured.out
    assert "3 files, 1 not good." in captured.err


def test_people_see_each_check(
    signed: pathlib.Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Marks for what passed and what stays open, and how to close it."""
    assert main(["verify", str(signed)]) == 0
    out = capsys.readouterr().out
    assert "  ✓ signature 1: the signature is intact and covers the whole file" in out
    assert "no root is pinned (--trust)" in out
    assert main(["verify", str(signed), "--trust", root]) == 0
    assert f"{signed}: valid" in capsys.readouterr().out.replace("\n", "")


def test_pins_that_are_none_are_refused(
    signed: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, no certificate, no key: status 2, nothing verified."""
    for option in ("--trust", "--tsa-trust", "--log-key"):
        assert verify(capsys, signed, option, signed)[0] == 2
    assert verify(capsys, signed, "--trust", "nowhere.pem")[0] == 2
    assert verify(capsys, "nowhere.pdf")[0] == 2
