"""fsck and proofs: a whole log passes, and every single damaged byte of it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outlast.core.errors import Corrupt, Refused
from outlast.core.log import signers
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from outlast.core.log.fsck import MAX_FINDINGS, verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import EMPTY_ROOT
from outlast.core.log.note import encode_base64, parse_note
from outlast.core.log.proof import (
    MAX_PROOF_BYTES,
    Proof,
    format_proof,
    make_proof,
    parse_proof,
    verify_proof,
)

ORIGIN = "log.example/eu-1"
SIZE = 600

Entries = Callable[[int, int], list[bytes]]
Publish = Callable[[TileArchive, int], bytes]


@pytest.fixture
def log(tmp_path: Path, publish: Publish) -> Path:
    """A log of SIZE entries, published in two steps."""
    archive = TileArchive(tmp_path / "log")
    publish(archive, 300)
    publish(archive, SIZE)
    return tmp_path / "log"


def body(data: bytes) -> Checkpoint:
    """What a checkpoint says."""
    return parse_checkpoint(parse_note(data).text)


def test_a_whole_log_passes(log: Path, key: LogKey, entries: Entries) -> None:
    """The report counts everything it checked, and progress ends at the size."""
    seen: list[tuple[int, int]] = []
    report = verify_log(log, key.verifiers, progress=lambda *now: seen.append(now))
    assert report.ok
    assert (report.origin, report.size, report.entries) == (ORIGIN, SIZE, SIZE)
    assert (report.bundles, report.tiles, report.faults) == (3, 4, 0)
    assert report.entry_bytes == sum(map(len, entries(0, SIZE)))
    assert [item.kind for item in report.verified] == [signers.KIND_ED25519]
    assert seen == [(256, SIZE), (512, SIZE), (SIZE, SIZE)]


def test_every_damaged_file_is_found(log: Path, key: LogKey) -> None:
    """One byte changed, cut off or added anywhere in any file the checkpoint needs is reported."""
    needed = ["checkpoint"] + [
        path.relative_to(log).as_posix()
        for path in (log / "tile").rglob("*")
        if path.is_file() and "001.p" not in path.as_posix() and path.as_posix()[-7:] != "000.p/1"
    ]
    assert len(needed) >= 7
    for name in needed:
        good = (log / name).read_bytes()
        middle = len(good) // 2
        flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
        for bad in (flipped, good[:-1], good + b"\0", b""):
            (log / name).write_bytes(bad)
            report = verify_log(log, key.verifiers)
            assert not report.ok, name
            assert report.findings
        (log / name).unlink()
        assert not verify_log(log, key.verifiers).ok, name
        (log / name).write_bytes(good)
    assert verify_log(log, key.verifiers).ok


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_flipped_bit_of_an_entry_is_found(data: st.DataObject, log: Path, key: LogKey) -> None:
    """Not one bit of an entry can change without fsck saying where."""
    path = log / "tile/entries/001"
    good = path.read_bytes()
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(good) - 1))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    try:
        report = verify_log(log, key.verifiers)
    finally:
        path.write_bytes(good)
    assert not report.ok
    assert report.findings[0].where in ("tile/0/001", "tile/entries/001")


def test_the_damaged_entry_is_named(log: Path, key: LogKey) -> None:
    """The finding gives the index of the entry that does not fit, and the root is off too."""
    path = log / "tile/entries/001"
    path.write_bytes(path.read_bytes().replace(b'"index":300', b'"index":301'))
    report = verify_log(log, key.verifiers)
    assert report.findings[0].message.startswith("entry 300 ")
    assert report.findings[-1].code == "root-mismatch"
    assert report.entries == SIZE


def test_a_lost_bundle_does_not_hide_what_follows(log: Path, key: LogKey) -> None:
    """With the tile still there the check goes on beyond a missing bundle; with both gone it stops and says so."""
    (log / "tile/entries/001").unlink()
    report = verify_log(log, key.verifiers)
    assert (report.faults, report.entries) == (1, SIZE)
    (log / "tile/0/001").unlink()
    report = verify_log(log, key.verifiers)
    assert not report.ok
    assert report.entries == 256
    assert {item.where for item in report.findings} == {"tile/entries/001", "tile/0/001"}


def test_findings_are_bounded(log: Path, key: LogKey, publish: Publish) -> None:
    """However much is broken, a report stays short and still counts."""
    publish(TileArchive(log), 256 * 30)
    for path in (log / "tile/0").rglob("*"):
        if path.is_file():
            path.write_bytes(b"broken")
    report = verify_log(log, key.verifiers)
    assert len(report.findings) == MAX_FINDINGS
    assert report.faults >= 30


def test_signatures_are_part_of_the_check(log: Path, key: LogKey) -> None:
    """A log that nobody known signed is not fine, though its tiles are."""
    stranger = LogKey(ORIGIN, b"s" * 32, b"t" * 32)
    report = verify_log(log, stranger.verifiers)
    assert [item.code for item in report.findings] == ["note-untrusted"]
    assert report.entries == SIZE
    assert not verify_log(log, key.verifiers, need=2).ok
    assert not verify_log(log, key.verifiers, origin="log.example/other").ok
    (log / "checkpoint").write_bytes(b"nonsense")
    assert [item.code for item in verify_log(log, key.verifiers).findings] == ["note-malformed"]


def test_a_trusted_checkpoint_must_still_be_in_the_log(
    tmp_path: Path, key: LogKey, entries: Entries, publish: Publish
) -> None:
    """Each earlier checkpoint is confirmed; a fork, a shorter log and another log are reported."""
    archive = TileArchive(tmp_path / "log")
    older = {size: body(publish(archive, size)) for size in (1, 255, 256, 300, 512, 600)}
    for size, trusted in older.items():
        report = verify_log(archive, key.verifiers, trusted=trusted)
        assert (report.ok, report.consistent_with) == (True, size)
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert verify_log(archive, key.verifiers, trusted=empty).consistent_with == 0

    def codes(trusted: Checkpoint) -> list[str]:
        report = verify_log(archive, key.verifiers, trusted=trusted)
        assert (report.ok, report.consistent_with) == (False, None)
        return [item.code for item in report.findings]

    assert codes(Checkpoint(ORIGIN, 300, b"x" * 32)) == ["log-forked"]
    assert codes(Checkpoint(ORIGIN, 601, b"x" * 32)) == ["log-shrunk"]
    report = verify_log(archive, key.verifiers, trusted=Checkpoint("other", 1, older[1].root))
    assert [item.code for item in report.findings] == ["checkpoint-origin"]


def test_a_forged_log_needs_the_key(
    tmp_path: Path, key: LogKey, entries: Entries, publish: Publish
) -> None:
    """Rewriting entries, tiles and the root consistently leaves the signature to give it away."""
    archive = TileArchive(tmp_path / "log")
    publish(archive, SIZE)
    forged = TileArchive(tmp_path / "forged")
    head = forged.grow(0, [*entries(0, 300), b"forged", *entries(301, SIZE)])
    note = (tmp_path / "log/checkpoint").read_bytes()
    real = archive.published()
    assert real is not None
    lie = note.replace(encode_base64(real.root).encode(), encode_base64(head.root).encode())
    forged.publish(lie)
    report = verify_log(forged, key.verifiers)
    assert [item.code for item in report.findings] == ["note-signature"]


def test_proofs_verify_offline(log: Path, key: LogKey, entries: Entries) -> None:
    """A .tlog-proof file, the entry's bytes and a pinned key are enough."""
    archive = TileArchive(log)
    checkpoint = archive.read_checkpoint()
    assert checkpoint is not None
    read_node = archive.node_reader(SIZE)
    for index in (0, 1, 255, 256, 511, 512, SIZE - 1):
        data = format_proof(make_proof(index, checkpoint, read_node))
        entry = entries(index, index + 1)[0]
        opened = verify_proof(parse_proof(data), entry, key.verifiers, origin=ORIGIN)
        assert opened.checkpoint.size == SIZE
        with pytest.raises(Corrupt):
            verify_proof(parse_proof(data), entry + b" ", key.verifiers)
        with pytest.raises(Refused):
            verify_proof(parse_proof(data), entry, LogKey(ORIGIN, b"s" * 32, b"t" * 32).verifiers)
    with pytest.raises(Refused):
        make_proof(SIZE, checkpoint, read_node)


def test_a_proof_of_the_only_entry_has_no_hashes(
    tmp_path: Path, key: LogKey, publish: Publish
) -> None:
    """In a log of one entry the leaf is the root."""
    archive = TileArchive(tmp_path)
    checkpoint = publish(archive, 1)
    made = make_proof(0, checkpoint, archive.node_reader(1))
    assert made.hashes == ()
    assert parse_proof(format_proof(made)) == made
    verify_proof(made, next(archive.entries(0, 1)), key.verifiers)


def test_witnesses_can_be_demanded(tmp_path: Path, key: LogKey, entries: Entries) -> None:
    """A quorum counts different witnesses, and a missing one is refused."""
    witnesses = [signers.Ed25519Cosigner(f"w{n}.example", bytes([n]) * 32) for n in (1, 2, 3)]
    archive = TileArchive(tmp_path)
    head = archive.grow(0, entries(0, 9))
    signed_by = (*key.signers[:1], witnesses[0], witnesses[1])
    archive.publish(sign_checkpoint(ORIGIN, head.size, head.root, signed_by, time_s=5))
    checkpoint = archive.read_checkpoint()
    assert checkpoint is not None
    made = make_proof(4, checkpoint, archive.node_reader(9))
    entry = entries(4, 5)[0]
    known = [signers.verifier_for(one.key) for one in witnesses]
    for quorum, enough in ((0, True), (1, True), (2, True), (3, False)):
        if enough:
            verify_proof(made, entry, key.verifiers, witnesses=known, quorum=quorum)
            continue
        with pytest.raises(Refused):
            verify_proof(made, entry, key.verifiers, witnesses=known, quorum=quorum)


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_flipped_bit_of_a_proof_is_noticed(
    data: st.DataObject, log: Path, key: LogKey, entries: Entries
) -> None:
    """No bit of a proof file can change and still prove the entry."""
    archive = TileArchive(log)
    checkpoint = archive.read_checkpoint()
    assert checkpoint is not None
    good = format_proof(make_proof(300, checkpoint, archive.node_reader(SIZE)))
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(good) - 1))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((Refused, Corrupt)):
        verify_proof(parse_proof(bytes(bad)), entries(300, 301)[0], key.verifiers)


HASH = encode_base64(b"h" * 32)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v2\nindex 0",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\nindex",
        "c2sp.org/tlog-proof@v1\nindex ",
        "c2sp.org/tlog-proof@v1\nindex 01",
        "c2sp.org/tlog-proof@v1\nindex -1",
        f"c2sp.org/tlog-proof@v1\nindex {1 << 63}",
        "c2sp.org/tlog-proof@v1\nindex " + "9" * 100_000,
        "c2sp.org/tlog-proof@v1\nindex 0\nindex 0",
        "c2sp.org/tlog-proof@v1\nindex 0\nAAAA",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH[:-1]}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH}\r",
        "c2sp.org/tlog-proof@v1\nindex 0\n" + "\n".join([HASH] * 64),
        "c2sp.org/tlog-proof@v1\nextra %%\nindex 0",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA",
        "c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\nindex 0",
        "c2sp.org/tlog-proof@v1\nextra " + "AAAA" * 30_000 + "\nindex 0",
        "c2sp.org/tlog-proof@v1\nindex é",
    ],
)
def test_malformed_proofs_are_refused(head: str) -> None:
    """Other headers, odd numbers, wrong lengths, too many hashes, and bytes that are no text."""
    with pytest.raises(Refused) as caught:
        parse_proof(head.encode() + b"\n\no\n1\n\n")
    assert caught.value.code == "proof-malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        b"c2sp.org/tlog-proof@v1\nindex 0\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + b"x" * MAX_PROOF_BYTES,
    ],
)
def test_proofs_without_a_checkpoint_or_too_long_are_refused(data: bytes) -> None:
    """A proof ends in a checkpoint, and is bounded."""
    with pytest.raises(Refused):
        parse_proof(data)


@given(st.binary(max_size=300))
def test_noise_is_no_proof(noise: bytes) -> None:
    """Random bytes never do anything but be refused."""
    with pytest.raises(Refused):
        parse_proof(noise)


def test_an_empty_extra_line_is_kept() -> None:
    """No extra data and empty extra data are told apart."""
    for extra in (None, b"", b"x"):
        made = Proof(0, (), b"checkpoint\n", extra)
        assert parse_proof(format_proof(made)) == made
    with pytest.raises(Refused):
        format_proof(Proof(-1, (), b"checkpoint\n"))
