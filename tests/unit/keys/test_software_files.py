"""Key files: encrypted, private, whole or absent, readable by openssl, and opened once."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import anyio
import pytest

from outlast.adapters.keys import software
from outlast.adapters.keys.software import MAX_KEY_FILE_BYTES, SoftwareSigner
from outlast.core.asymmetric import generate_private_key, signature_is_valid
from outlast.core.errors import Refused, Unavailable
from outlast.core.pki import private_key_pem
from outlast.ports.keys import SignRequest

pytestmark = pytest.mark.anyio

PASSPHRASE = b"correct horse"


def request(key_ref: str) -> SignRequest:
    """A request to a P-256 key."""
    return SignRequest(key_ref=key_ref, algorithm="ecdsa-p256-sha256", tbs=b"x", operation="o/1/1")


def openssl_public_key(path: Path, passphrase_file: Path) -> bytes:
    """SubjectPublicKeyInfo of an encrypted key, by openssl."""
    command = ["openssl", "pkey", "-in", str(path), "-passin", f"file:{passphrase_file}"]
    result = subprocess.run(
        [*command, "-pubout", "-outform", "DER"], capture_output=True, check=True
    )
    return result.stdout


def names(folder: Path) -> list[str]:
    """Everything in the folder."""
    return [path.name for path in folder.iterdir()]


async def test_file_is_private_and_openssl_reads_it(tmp_path: Path) -> None:
    """Mode 0600 in a directory of mode 0700, no draft left behind, and `openssl pkey` opens it."""
    signer = SoftwareSigner(tmp_path / "keys", PASSPHRASE)
    info = await signer.generate("contracts", "ecdsa-p256-sha256")
    path = tmp_path / "keys" / "contracts.p8"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert names(path.parent) == ["contracts.p8"]
    (tmp_path / "pass").write_bytes(PASSPHRASE)
    assert openssl_public_key(path, tmp_path / "pass") == info.spki_der


async def test_a_key_survives_a_restart(tmp_path: Path) -> None:
    """Another signer over the same directory signs with the same key."""
    info = await SoftwareSigner(tmp_path, PASSPHRASE).generate("k", "ecdsa-p256-sha256")
    signature = await SoftwareSigner(tmp_path, PASSPHRASE).sign(request("k"))
    assert signature_is_valid(info.spki_der, info.algorithm, tbs=b"x", signature=signature)


async def test_an_existing_key_is_never_replaced(tmp_path: Path) -> None:
    """Generating under a taken name is Refused and leaves the file as it was."""
    signer = SoftwareSigner(tmp_path, PASSPHRASE)
    await signer.generate("k", "ecdsa-p256-sha256")
    before = (tmp_path / "k.p8").read_bytes()
    with pytest.raises(Refused, match="key-exists"):
        await signer.generate("k", "ed25519")
    assert (tmp_path / "k.p8").read_bytes() == before
    assert names(tmp_path) == ["k.p8"]


async def test_bad_files_are_refused(tmp_path: Path) -> None:
    """Damaged, unencrypted, oversized and empty files, and a foreign passphrase, are each Refused."""
    signer = SoftwareSigner(tmp_path, PASSPHRASE)
    await signer.generate("k", "ecdsa-p256-sha256")
    good = (tmp_path / "k.p8").read_bytes()
    plain = private_key_pem(generate_private_key("ecdsa-p256-sha256"))
    bad = {
        "cut": good[: len(good) // 2],
        "plain": plain,
        "empty": b"",
        "noise": b"\x00" * 100,
        "large": good + b"\n" * MAX_KEY_FILE_BYTES,
        "foreign": private_key_pem(generate_private_key("ecdsa-p256-sha256"), b"other"),
    }
    for name, data in bad.items():
        (tmp_path / f"{name}.p8").write_bytes(data)
        with pytest.raises(Refused) as refusal:
            await signer.sign(request(name))
        assert refusal.value.code in {"credentials-refused", "key-unsupported"}, name


async def test_names_cannot_leave_the_directory(tmp_path: Path) -> None:
    """No name reaches a key outside, whatever it is made of."""
    await SoftwareSigner(tmp_path / "outside", PASSPHRASE).generate("k", "ecdsa-p256-sha256")
    signer = SoftwareSigner(tmp_path / "inside", PASSPHRASE)
    for name in ("../outside/k", "..", ".", "", "/etc/passwd", "a\x00b", ".hidden", "k" * 65):
        with pytest.raises(Refused, match="key-not-found"):
            await signer.sign(request(name))


async def test_unwritable_directory_is_unavailable(tmp_path: Path) -> None:
    """Where the directory has gone, generating and checking say so, and leave nothing."""
    signer = SoftwareSigner(tmp_path / "keys", PASSPHRASE)
    (tmp_path / "keys").rmdir()
    with pytest.raises(Unavailable, match="keystore-unwritable"):
        await signer.generate("k", "ed25519")
    with pytest.raises(Unavailable, match="keystore-unreadable"):
        await signer.check()


async def test_a_cold_key_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty requests for a key not yet loaded read its file once."""
    await SoftwareSigner(tmp_path, PASSPHRASE).generate("k", "ecdsa-p256-sha256")
    signer = SoftwareSigner(tmp_path, PASSPHRASE)
    opened: list[Path] = []
    real_open = Path.open

    def counting_open(path: Path, *arguments: str) -> object:
        opened.append(path)
        return real_open(path, *arguments)

    monkeypatch.setattr(Path, "open", counting_open)
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(signer.sign, request("k"))
    assert opened == [tmp_path / "k.p8"]


async def test_keys_are_opened_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened ahead, a key signs without its file being read again; what cannot be opened is passed over, and the
    number is bounded."""
    maker = SoftwareSigner(tmp_path, PASSPHRASE)
    for name in ("a", "b", "c"):
        await maker.generate(name, "ecdsa-p256-sha256")
    (tmp_path / "a.p8").write_text("not a key")
    monkeypatch.setattr(software, "MAX_OPENED_AHEAD", 1)
    signer = SoftwareSigner(tmp_path, PASSPHRASE)
    await signer.open_keys()
    for name in names(tmp_path):
        (tmp_path / name).unlink()
    assert (await signer.describe("b")).key_ref == "b"
    with pytest.raises(Refused) as refused:
        await signer.describe("c")
    assert refused.value.code == "key-not-found"


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    """Keys are never kept under no passphrase."""
    with pytest.raises(Refused, match="credentials-refused"):
        SoftwareSigner(tmp_path, b"")
