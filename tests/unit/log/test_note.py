"""Signed notes: what parses is written back the same; everything else is refused, quickly."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.errors import Corrupt, Refused
from outlast.core.log import note, signers

ALICE = signers.Ed25519Signer("alice.example/a", b"a" * 32)
BOB = signers.Ed25519Signer("bob.example/b", b"b" * 32)
TEXT = "first\n\nthird\n"
ALICE_CHECKS = signers.verifier_for(ALICE.key)
BOB_CHECKS = signers.verifier_for(BOB.key)


def signed(*by: note.Signer) -> bytes:
    """TEXT signed."""
    return note.format_note(note.sign_note(TEXT, by))


def line(name: str = "alice.example/a", raw: bytes = b"\0" * 68) -> str:
    """A signature line."""
    return f"— {name} {base64.b64encode(raw).decode()}\n"


def test_known_signatures_are_checked_and_unknown_ones_kept() -> None:
    """A reader that knows only Alice sees Alice verified and passes Bob's line on unchanged."""
    data = signed(ALICE, BOB)
    opened = note.parse_note(data)
    verified = note.verify_note(opened, [ALICE_CHECKS])
    assert [item.name for item in verified] == ["alice.example/a"]
    assert [item.name for item in opened.signatures] == ["alice.example/a", "bob.example/b"]
    assert note.format_note(opened) == data


def test_a_note_by_strangers_is_refused() -> None:
    """Without a signature by a known key the text means nothing."""
    with pytest.raises(Refused) as caught:
        note.verify_note(note.parse_note(signed(BOB)), [ALICE_CHECKS])
    assert caught.value.code == "note-untrusted"


def test_one_bad_signature_by_a_known_key_spoils_the_note() -> None:
    """Also when another known key's signature is good, and when the same key signed well before."""
    good = note.parse_note(signed(ALICE, BOB))
    bad = note.Signature(ALICE.key.name, ALICE.key.key_id, b"\0" * 64)
    for signatures in ((bad, good.signatures[1]), (*good.signatures, bad)):
        with pytest.raises(Corrupt) as caught:
            note.verify_note(note.Note(TEXT, signatures), [ALICE_CHECKS, BOB_CHECKS])
        assert caught.value.code == "note-signature"


def test_a_signature_is_known_by_name_and_id_together() -> None:
    """The same id under another name, or name under another id, is unknown, not wrong."""
    good = note.parse_note(signed(ALICE)).signatures[0]
    strange = (
        note.Signature("mallory.example", good.key_id, b"\0" * 64),
        note.Signature(good.name, good.key_id ^ 1, b"\0" * 64),
    )
    assert len(note.verify_note(note.Note(TEXT, (*strange, good)), [ALICE_CHECKS])) == 1


def test_a_repeated_signature_counts_as_the_same_key() -> None:
    """A line that stands twice is verified twice and names one key."""
    twice = note.parse_note(signed(ALICE) + signed(ALICE).split(b"\n\n")[-1])
    assert len(twice.signatures) == 2
    assert {item.key_id for item in note.verify_note(twice, [ALICE_CHECKS])} == {ALICE.key.key_id}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        TEXT.encode() + b"\n",
        signed(ALICE)[:-1],
        signed(ALICE) + b"more\n",
        signed(ALICE) + b"\n",
        signed(ALICE).replace(b"\n", b"\r\n"),
        b"\x01" + signed(ALICE),
        b"\xff" + signed(ALICE),
        b"\xed\xa0\x80" + signed(ALICE),
        f"a\n\n{line('two words')}".encode(),
        f"a\n\n{line('nbsp' + chr(0xA0))}".encode(),
        f"a\n\n{line('line' + chr(0x2028))}".encode(),
        f"a\n\n{line('pl+us')}".encode(),
        f"a\n\n{line('')}".encode(),
        f"a\n\n{line('n' * 256)}".encode(),
        f"a\n\n{line(raw=b'1234')}".encode(),
        f"a\n\n{line(raw=b'')}".encode(),
        f"a\n\n{line().replace('— ', '- ')}".encode(),
        f"a\n\n{line().replace('=', '')}".encode(),
        f"a\n\n{line()[:-3]}B=\n".encode(),
        f"a\n\n{line().replace('AAAA', 'AA-_', 1)}".encode(),
        b"a\n\n" + line().replace("AAAA", "AA\tA", 1).encode(),
        f"a\n\n{line() * 65}".encode(),
        b"a\n\n" + b"x" * note.MAX_NOTE_BYTES,
    ],
)
def test_malformed_notes_are_refused(data: bytes) -> None:
    """Not UTF-8, control characters, odd base64, bad names, no signatures, too many, too long."""
    with pytest.raises(Refused) as caught:
        note.parse_note(data)
    assert caught.value.code == "note-malformed"


def test_sixty_four_signatures_are_taken() -> None:
    """The bound lies well above the sixteen that the specification asks for."""
    assert len(note.parse_note(f"a\n\n{line() * 64}".encode()).signatures) == 64


@given(st.binary(max_size=300))
def test_noise_is_refused_or_reads_back(noise: bytes) -> None:
    """Whatever parses is written back byte for byte; whatever does not is Refused."""
    for data in (noise, b"a\n\n" + noise, f"a\n\n{line()}".encode() + noise):
        try:
            opened = note.parse_note(data)
        except Refused:
            continue
        assert note.format_note(opened) == data


@pytest.mark.parametrize("text", ["", "open", "a\x00\n", "a\tb\n", "a\r\n"])
def test_text_that_cannot_be_a_notes_is_not_signed(text: str) -> None:
    """A text without its final newline, or with control characters, is refused before signing."""
    with pytest.raises(Refused):
        note.sign_note(text, [ALICE])


def test_a_note_without_or_with_too_many_signatures_is_not_written() -> None:
    """What we write we can read."""
    for signatures in ((), note.sign_note(TEXT, [ALICE] * 65).signatures):
        with pytest.raises(Refused):
            note.format_note(note.Note(TEXT, signatures))


VKEY = ALICE.key.text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++",
        VKEY[1:],
        VKEY[:-1],
        VKEY + "A",
        VKEY.upper(),
        VKEY.replace("+", " "),
        VKEY.replace("alice", "malice"),
        "a b" + VKEY,
        "alice.example/a+00000000+" + VKEY.split("+", 2)[2],
        "alice.example/a+zzzzzzzz+" + VKEY.split("+", 2)[2],
        note.VerifierKey("a", 1, b"").text(),
        note.VerifierKey("a", 1, b"short").text(),
        note.VerifierKey("a", 4, b"x" * 33).text(),
        note.VerifierKey("a", 6, b"x" * 1311).text(),
        note.VerifierKey("a", 1, b"x" * 100_000).text(),
    ],
)
def test_malformed_verifier_keys_are_refused(text: str) -> None:
    """A mangled key, one whose id is not its own, or one of the wrong length is no key."""
    with pytest.raises(Refused) as caught:
        signers.verifier_for(text)
    assert caught.value.code in ("vkey-malformed", "note-malformed")


@pytest.mark.parametrize("kind", [0, 2, 3, 5, 7, 0xFA, 0xFF])
def test_other_signature_types_are_unsupported(kind: int) -> None:
    """A well-formed key of a type we do not know says so."""
    with pytest.raises(Refused) as caught:
        signers.verifier_for(note.VerifierKey("a", kind, b"x" * 32).text())
    assert caught.value.code == "vkey-unsupported"
