"""The log's formats against the examples and values that their specifications give.

RFC 6962's tree is checked with the eight leaves that Certificate Transparency implementations have shared since its
first reference implementation; the C2SP formats with the examples printed in signed-note, tlog-checkpoint,
tlog-cosignature, tlog-tiles and tlog-proof (C2SP commit 5ba5ee8).
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from outlast.core.errors import Corrupt
from outlast.core.log import merkle, note, proof, signers, tiles
from outlast.core.log.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from outlast.core.log.logkey import LogKey

LEAVES = [
    merkle.leaf_hash(bytes.fromhex(text))
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]

ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]

NODE_96 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
NODE_5F = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODE_6B = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
NODE_BC = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NODE_CA = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
NODE_0E = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

SIGNED_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
SIGNED_NOTE_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"

POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""

COSIGNED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""


def read_node(level: int, index: int) -> bytes:
    """A node of the reference tree."""
    return merkle.subtree_root(index << level, (index + 1) << level, _leaf_only(level))


def _leaf_only(level: int) -> merkle.ReadNode:
    def read(at: int, index: int) -> bytes:
        if at == 0:
            return LEAVES[index]
        return merkle.node_hash(read(at - 1, 2 * index), read(at - 1, 2 * index + 1))

    return read


def test_the_roots_of_the_reference_tree() -> None:
    """Growing by the reference leaves gives the published root at each size (RFC 6962, 2.1)."""
    edge = merkle.CompactRange()
    assert edge.root() == ROOTS[0]
    for leaf, root in zip(LEAVES, ROOTS[1:], strict=True):
        edge.append(leaf)
        assert edge.root() == root


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [NODE_96, NODE_5F, NODE_6B]),
        (5, 8, [NODE_BC, NODE_CA, ROOTS[4].hex()]),
        (2, 3, [ROOTS[2].hex()]),
        (1, 5, [ROOTS[1].hex(), NODE_5F, NODE_BC]),
    ],
)
def test_the_reference_inclusion_proofs(index: int, size: int, path: list[str]) -> None:
    """Audit paths have the published values and verify (RFC 6962, 2.1.1)."""
    made = merkle.inclusion_proof(index, size, read_node)
    assert [item.hex() for item in made] == path
    merkle.verify_inclusion(LEAVES[index], index, size, made, ROOTS[size])


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (1, 1, []),
        (1, 8, [NODE_96, NODE_5F, NODE_6B]),
        (6, 8, [NODE_0E, NODE_CA, ROOTS[4].hex()]),
        (2, 5, [NODE_5F, NODE_BC]),
    ],
)
def test_the_reference_consistency_proofs(old: int, new: int, path: list[str]) -> None:
    """Consistency proofs have the published values and verify (RFC 6962, 2.1.2)."""
    made = merkle.consistency_proof(old, new, read_node)
    assert [item.hex() for item in made] == path
    merkle.verify_consistency(old, ROOTS[old], new, ROOTS[new], made)


def test_the_signed_note_example_verifies() -> None:
    """The example key of signed-note verifies the example note, and no changed text."""
    verifier = signers.verifier_for(SIGNED_NOTE_VKEY)
    opened = note.parse_note(SIGNED_NOTE.encode())
    assert note.verify_note(opened, [verifier]) == (
        note.Verified("example.com/foo", 0x530D903A, signers.KIND_ED25519, 0),
    )
    assert note.format_note(opened) == SIGNED_NOTE.encode()
    assert verifier.key.text() == SIGNED_NOTE_VKEY
    changed = note.parse_note(SIGNED_NOTE.replace("example message", "example massage").encode())
    with pytest.raises(Corrupt):
        note.verify_note(changed, [verifier])


def test_the_poem_keeps_its_empty_line() -> None:
    """A note's text may have empty lines: the last one parts it from the signatures (signed-note, "Format")."""
    opened = note.parse_note(POEM.encode())
    assert opened.text == POEM[: POEM.index("\n— ")]
    assert [item.name for item in opened.signatures] == ["quasimodo.example/salvatore"]
    assert note.format_note(opened) == POEM.encode()


def test_the_cosigned_checkpoint_example_parses() -> None:
    """The checkpoint of tlog-checkpoint and tlog-cosignature parses, its cosignature framed as specified."""
    opened = note.parse_note(COSIGNED.encode())
    body = parse_checkpoint(opened.text)
    assert (body.origin, body.size) == ("example.com/behind-the-sofa", 20852163)
    assert body.text() == opened.text
    log, witness = opened.signatures
    assert (log.key_id, len(log.value)) == (0x033DE0AE, 64)
    time_s, signature = struct.unpack(">Q64s", witness.value)
    assert (witness.name, time_s, len(signature)) == ("witness.example.com/w1", 1679315147, 64)


def test_an_ed25519_cosignature_signs_the_specified_bytes() -> None:
    """Type 0x04 signs header, time line and note text (tlog-cosignature, "Ed25519 signed message")."""
    seed = bytes(range(32))
    signer = signers.Ed25519Cosigner("witness.example.com/w1", seed)
    text = note.parse_note(COSIGNED.encode()).text
    value = signer.sign(text, 1679315147)
    message = b"cosignature/v1\ntime 1679315147\n" + text.encode()
    assert value[:8] == struct.pack(">Q", 1679315147)
    Ed25519PrivateKey.from_private_bytes(seed).public_key().verify(value[8:], message)
    material = b"witness.example.com/w1\n\x04" + signer.key.public
    assert signer.key.key_id == int.from_bytes(hashlib.sha256(material).digest()[:4], "big")


def test_an_ml_dsa_44_cosignature_signs_the_specified_structure() -> None:
    """Type 0x06 signs cosigned_message, built here by hand (tlog-cosignature, "ML-DSA-44 signed message")."""
    seed = bytes(range(32))
    signer = signers.MlDsa44Signer("witness.example.com/w1", seed)
    text = note.parse_note(COSIGNED.encode()).text
    value = signer.sign(text, 1679315147)
    root = parse_checkpoint(text).root
    message = b"subtree/v1\n\0" + b"\x16witness.example.com/w1" + struct.pack(">Q", 1679315147)
    message += b"\x1bexample.com/behind-the-sofa" + struct.pack(">QQ", 0, 20852163) + root
    assert (len(value), value[:8]) == (8 + 2420, struct.pack(">Q", 1679315147))
    MLDSA44PrivateKey.from_seed_bytes(seed).public_key().verify(value[8:], message)
    material = b"witness.example.com/w1\n\x06" + signer.key.public
    assert len(signer.key.public) == 1312
    assert signer.key.key_id == int.from_bytes(hashlib.sha256(material).digest()[:4], "big")


def test_the_tile_index_example() -> None:
    """Index 1234067 is written x001/x234/067 (tlog-tiles, "Merkle Tree")."""
    assert tiles.Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert tiles.parse_path("tile/0/x001/x234/067") == tiles.Tile(0, 1234067)


def test_the_tiles_of_a_tree_of_70000() -> None:
    """273 full and a partial of 112 at level 0, one full and 17 at level 1, 1 at level 2 (tlog-tiles)."""
    every = list(tiles.tiles_between(0, 70_000))
    widths = [
        [tile.width for tile in every if tile.level == level]
        for level in (tiles.ENTRIES, 0, 1, 2, 3)
    ]
    assert widths == [[256] * 273 + [112], [256] * 273 + [112], [256, 17], [1], []]


def test_the_tiles_of_a_tree_of_256() -> None:
    """A full tile at level 0 and a partial one of width 1 at level 1 (tlog-tiles, "Partial Tiles")."""
    paths = [tile.path for tile in tiles.tiles_between(0, 256)]
    assert paths == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]


def test_the_proof_example_has_the_specified_lines() -> None:
    """A proof is written as tlog-proof shows it, and read back."""
    hashes = (
        "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=",
        "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=",
    )
    text = "c2sp.org/tlog-proof@v1\nextra YWdlLXYxLjIuMQ==\nindex 73894\n" + "\n".join(hashes)
    data = text.encode() + b"\n\n" + COSIGNED.encode()
    read = proof.parse_proof(data)
    assert (read.index, read.extra, len(read.hashes)) == (73894, b"age-v1.2.1", 2)
    assert read.checkpoint == COSIGNED.encode()
    assert proof.format_proof(read) == data


def test_an_empty_log_has_a_checkpoint() -> None:
    """Size 0 is written "0" and its root is SHA-256 of nothing (tlog-checkpoint; RFC 6962, 2.1)."""
    text = Checkpoint("example.com/log", 0, merkle.EMPTY_ROOT).text()
    assert text == "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"


def test_openssl_verifies_a_checkpoint(tmp_path: Path) -> None:
    """The recipe of docs/reference/log.md: OpenSSL alone verifies a checkpoint by its vkey."""
    key = LogKey.generate("log.example/eu-1")
    (tmp_path / "checkpoint").write_bytes(
        sign_checkpoint(key.name, 8, ROOTS[8], key.signers, time_s=1)
    )
    recipe = r"""
        set -e
        sed '/^$/,$d' checkpoint > text
        { printf '\060\052\060\005\006\003\053\145\160\003\041\000'
          echo "${VKEY#*+*+}" | base64 -d | tail -c 32; } | openssl pkey -pubin -inform DER -out key.pem
        ID=$(echo "$VKEY" | cut -d+ -f2)
        grep '^— ' checkpoint | cut -d' ' -f3 | while read -r s; do
          if [ "$(echo "$s" | base64 -d | head -c 4 | od -An -tx1 | tr -d ' \n')" = "$ID" ]; then
            echo "$s" | base64 -d | tail -c +5 > sig
          fi
        done
        openssl pkeyutl -verify -rawin -pubin -inkey key.pem -sigfile sig -in text
    """
    environment = {**os.environ, "VKEY": key.vkeys[0]}
    run = ["bash", "-c", recipe]
    good = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert good.returncode == 0, f"needs bash and openssl 3: {good.stderr}"
    changed = (tmp_path / "checkpoint").read_bytes().replace(b"\n8\n", b"\n9\n")
    (tmp_path / "checkpoint").write_bytes(changed)
    bad = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert bad.returncode != 0
