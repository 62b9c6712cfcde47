"""Checkpoints: signed, opened with pinned keys only, and every odd spelling refused."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlast.core.errors import Corrupt, Refused
from outlast.core.log import signers
from outlast.core.log.checkpoint import (
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from outlast.core.log.logkey import LogKey
from outlast.core.log.note import MAX_NOTE_BYTES

ORIGIN = "log.example/eu-1"
ROOT = b"r" * 32
ROOT_TEXT = base64.b64encode(ROOT).decode()


def test_both_kinds_of_keys_sign(key: LogKey) -> None:
    """A log's checkpoint carries Ed25519 and ML-DSA-44, either alone suffices, and both can be demanded."""
    data = sign_checkpoint(ORIGIN, 7, ROOT, key.signers, time_s=1_700_000_000)
    both = open_checkpoint(data, key.verifiers, need=2)
    assert both.checkpoint == Checkpoint(ORIGIN, 7, ROOT)
    assert [(item.kind, item.time_s) for item in both.verified] == [(1, 0), (6, 1_700_000_000)]
    for verifier in key.verifiers:
        assert len(open_checkpoint(data, [verifier]).verified) == 1


def test_a_stripped_signature_is_noticed_where_both_are_needed(key: LogKey) -> None:
    """Taking the post-quantum signature away does not fool a reader that asks for two."""
    data = sign_checkpoint(ORIGIN, 7, ROOT, key.signers[:1])
    with pytest.raises(Refused) as caught:
        open_checkpoint(data, key.verifiers, need=2)
    assert caught.value.code == "note-untrusted"


def test_the_same_signature_twice_is_one_key(key: LogKey) -> None:
    """Repeating a line does not reach ``need``."""
    data = sign_checkpoint(ORIGIN, 7, ROOT, (*key.signers[:1], *key.signers[:1]))
    with pytest.raises(Refused):
        open_checkpoint(data, key.verifiers, need=2)


def test_witness_cosignatures_stand_beside(key: LogKey) -> None:
    """Cosignatures of both types verify on the same checkpoint, and state their time."""
    witness = signers.Ed25519Cosigner("witness.example/w1", b"w" * 32)
    mirror = signers.MlDsa44Signer("mirror.example/m1", b"m" * 32)
    data = sign_checkpoint(ORIGIN, 7, ROOT, (*key.signers, witness, mirror), time_s=99)
    verifiers = [signers.verifier_for(one.key.text()) for one in (witness, mirror)]
    opened = open_checkpoint(data, verifiers, origin=ORIGIN, need=2)
    assert [item.time_s for item in opened.verified] == [99, 99]
    with pytest.raises(Refused) as caught:  # a witness does not speak for an origin by itself
        open_checkpoint(data, verifiers)
    assert caught.value.code == "checkpoint-origin"


def test_another_logs_checkpoint_is_refused(key: LogKey) -> None:
    """A key's signature under a foreign origin, or an origin not asked for, does not pass."""
    foreign = sign_checkpoint("other.example/log", 7, ROOT, key.signers[:1])
    with pytest.raises(Refused):
        open_checkpoint(foreign, key.verifiers)
    with pytest.raises(Refused):
        open_checkpoint(sign_checkpoint(ORIGIN, 7, ROOT, key.signers), key.verifiers, origin="x")


@settings(deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject, key: LogKey) -> None:
    """No byte of a checkpoint with one signature can change unnoticed."""
    signer = data.draw(st.sampled_from(key.signers))
    good = sign_checkpoint(ORIGIN, 7, ROOT, [signer], time_s=5)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((Refused, Corrupt)):
        open_checkpoint(bytes(bad), key.verifiers)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"o\n1\n{ROOT_TEXT}",
        f"\n1\n{ROOT_TEXT}\n",
        f"o\n\n{ROOT_TEXT}\n",
        "o\n1\n",
        "o\n1\n\n",
        f"o\n01\n{ROOT_TEXT}\n",
        f"o\n-1\n{ROOT_TEXT}\n",
        f"o\n+1\n{ROOT_TEXT}\n",
        f"o\n1 \n{ROOT_TEXT}\n",
        f"o\n١\n{ROOT_TEXT}\n",
        f"o\n{1 << 63}\n{ROOT_TEXT}\n",
        f"o\n{'9' * 60_000}\n{ROOT_TEXT}\n",
        f"o\n1\n{ROOT_TEXT[:-1]}\n",
        f"o\n1\n{ROOT_TEXT}=\n",
        f"o\n1\n{ROOT_TEXT[:-2]}J=\n",
        "o\n1\nAAAA\n",
        f"o\n1\n{ROOT_TEXT}\n\n",
        f"o\n1\n{ROOT_TEXT}\nextension\n\n",
        f"o\n1\n{ROOT_TEXT}\n{'x' * 70_000}\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    """One spelling of a checkpoint exists; all others are refused."""
    with pytest.raises(Refused) as caught:
        parse_checkpoint(text)
    assert caught.value.code == "checkpoint-malformed"


def test_extension_lines_are_carried() -> None:
    """Another log's extension lines survive reading and writing."""
    text = f"o\n1\n{ROOT_TEXT}\nextension one\ntwo\n"
    assert parse_checkpoint(text).extensions == ("extension one", "two")
    assert parse_checkpoint(text).text() == text


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("two\nlines", 1, ROOT),
        Checkpoint("", 1, ROOT),
        Checkpoint("o", -1, ROOT),
        Checkpoint("o", 1, b"short"),
        Checkpoint("o", 1, ROOT, ("",)),
        Checkpoint("o", 1, ROOT, ("a\nb",)),
    ],
)
def test_what_could_not_be_read_back_is_not_written(checkpoint: Checkpoint) -> None:
    """An origin or extension that would shift the lines is refused."""
    with pytest.raises(Refused):
        checkpoint.text()


@pytest.mark.parametrize("time_s", [-1, 1 << 63])
def test_a_time_outside_the_format_is_not_signed(time_s: int, key: LogKey) -> None:
    """Timestamps end at 2^63-1 seconds (tlog-cosignature, "Format")."""
    with pytest.raises(Refused):
        sign_checkpoint(ORIGIN, 1, ROOT, key.signers, time_s=time_s)


@pytest.mark.parametrize("value", [b"", b"1234567", b"\xff" * 72, b"\0" * 8])
def test_a_cosignature_with_an_impossible_time_is_corrupt(value: bytes) -> None:
    """Too short for a time, or beyond 2^63-1: not a signature."""
    text = Checkpoint("o", 1, ROOT).text()
    for signer in (signers.Ed25519Cosigner("w", b"w" * 32), signers.MlDsa44Signer("w", b"w" * 32)):
        with pytest.raises(Corrupt):
            signers.verifier_for(signer.key).verify(text, value)


def test_a_cosigner_signs_nothing_but_checkpoints() -> None:
    """A cosignature key cannot be led to sign another text, nor an origin too long for the format."""
    for signer in (signers.Ed25519Cosigner("w", b"w" * 32), signers.MlDsa44Signer("w", b"w" * 32)):
        with pytest.raises(Refused):
            signer.sign("hello\n", 0)
    with pytest.raises(Refused):
        sign_checkpoint("o" * 256, 1, ROOT, [signers.MlDsa44Signer("w", b"w" * 32)])


def test_a_huge_checkpoint_is_refused_before_it_is_read(key: LogKey) -> None:
    """Size is checked first."""
    with pytest.raises(Refused):
        open_checkpoint(b"o\n1\n" * MAX_NOTE_BYTES, key.verifiers)


def test_log_keys_survive_a_file_plain_and_sealed(key: LogKey) -> None:
    """The file gives the same keys back, and sealed it shows nothing of them."""
    for passphrase in (None, b"correct horse"):
        data = key.encode(passphrase)
        again = LogKey.decode(data, passphrase)
        assert (again.name, again.vkeys) == (key.name, key.vkeys)
    assert base64.b64encode(bytes(range(30))) in key.encode()
    assert base64.b64encode(bytes(range(30))) not in key.encode(b"correct horse")


def test_a_sealed_key_needs_its_passphrase(key: LogKey) -> None:
    """No passphrase and a wrong one are refused, and a changed file too."""
    sealed = key.encode(b"correct horse")
    for passphrase in (None, b"", b"wrong"):
        with pytest.raises(Refused) as caught:
            LogKey.decode(sealed, passphrase)
        assert caught.value.code == "logkey-passphrase"
    with pytest.raises(Refused):
        LogKey.decode(sealed.replace(b"eu-1", b"eu-2"), b"correct horse")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 4_000,
        b" " * 5_000,
        b'{"v":2,"name":"a","seal":"none","secret":""}',
        b'{"v":1,"name":"a","seal":"none","secret":"AAAA"}',
        b'{"v":1,"name":"a","seal":"rot13","secret":"AAAA"}',
        b'{"v":1,"name":"a","seal":"scrypt-aes256gcm","secret":"AAAA"}',
    ],
)
def test_what_is_no_key_file_is_corrupt(data: bytes) -> None:
    """Anything else is Corrupt, with no part of it in the message."""
    with pytest.raises(Corrupt) as caught:
        LogKey.decode(data, b"p")
    assert caught.value.code == "logkey"


def test_generated_keys_differ_and_hide(key: LogKey) -> None:
    """Fresh keys are fresh, and a key's repr shows its name only."""
    assert LogKey.generate(ORIGIN).vkeys != LogKey.generate(ORIGIN).vkeys
    assert repr(key) == f"LogKey({ORIGIN!r})"
    with pytest.raises(Refused):
        LogKey.generate("with space")
