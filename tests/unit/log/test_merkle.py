"""The Merkle tree: hashes, edges and proofs against a naive reading of RFC 6962."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlast.core.errors import Corrupt, Refused
from outlast.core.log import merkle

LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(300)]


def mth(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not hashes:
        return merkle.EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return merkle.node_hash(mth(hashes[:k]), mth(hashes[k:]))


def path(index: int, hashes: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if index < k:
        return [*path(index, hashes[:k]), mth(hashes[k:])]
    return [*path(index - k, hashes[k:]), mth(hashes[:k])]


def subproof(m: int, hashes: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2, word for word."""
    if m == len(hashes):
        return [] if whole else [mth(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*subproof(m, hashes[:k], whole), mth(hashes[k:])]
    return [*subproof(m - k, hashes[k:], False), mth(hashes[:k])]


def read_node(level: int, index: int) -> bytes:
    """A node reader over LEAVES that insists on complete subtrees."""
    part = LEAVES[index << level : (index + 1) << level]
    assert len(part) == 1 << level
    return mth(part)


def test_compact_range_has_the_root_of_the_naive_tree_at_every_size() -> None:
    """Growing the edge leaf by leaf gives MTH at each size, and survives a trip through a row."""
    edge = merkle.CompactRange()
    for size in range(len(LEAVES)):
        assert edge.size == size
        assert edge.root() == mth(LEAVES[:size])
        assert merkle.CompactRange.decode(edge.encode()).hashes == edge.hashes
        edge.append(LEAVES[size])


def test_copy_is_independent() -> None:
    """A copied edge may grow without touching the first, so a failed flush can be dropped."""
    edge = merkle.CompactRange()
    edge.extend(LEAVES[:5])
    twin = edge.copy()
    twin.extend(LEAVES[5:9])
    assert edge.root() == mth(LEAVES[:5])
    assert twin.root() == mth(LEAVES[:9])


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 7, b"\0" * 9, b"\0" * 40, (1).to_bytes(8, "big"), b"\xff" * 8]
)
def test_an_impossible_edge_is_corrupt(data: bytes) -> None:
    """An edge whose hashes cannot belong to its size is refused on reading."""
    with pytest.raises(Corrupt) as caught:
        merkle.CompactRange.decode(data)
    assert caught.value.code == "tree-edge"


def test_every_inclusion_proof_is_the_rfcs_and_verifies() -> None:
    """For each index of each size up to 70 the proof equals PATH and verifies."""
    for size in range(1, 71):
        root = mth(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, read_node)
            assert proof == path(index, LEAVES[:size])
            merkle.verify_inclusion(LEAVES[index], index, size, proof, root)


def test_every_consistency_proof_is_the_rfcs_and_verifies() -> None:
    """For each pair of sizes up to 70 the proof equals PROOF and verifies."""
    for new in range(71):
        for old in range(new + 1):
            proof = merkle.consistency_proof(old, new, read_node)
            if old > 0:
                assert proof == subproof(old, LEAVES[:new], True)
            merkle.verify_consistency(old, mth(LEAVES[:old]), new, mth(LEAVES[:new]), proof)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_to_an_inclusion_proof_fails(data: st.DataObject) -> None:
    """A flipped bit anywhere, another index, another size, a longer or shorter proof: none verifies."""
    size = data.draw(st.integers(1, 300))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, read_node)
    parts = [LEAVES[index], mth(LEAVES[:size]), *proof]
    which = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, 255))
    parts[which] = (int.from_bytes(parts[which], "big") ^ (1 << bit)).to_bytes(32, "big")
    with pytest.raises(Corrupt):
        merkle.verify_inclusion(parts[0], index, size, parts[2:], parts[1])
    leaf, root = LEAVES[index], mth(LEAVES[:size])
    for wrong in (
        [*proof, LEAVES[0]],
        proof[:-1] if proof else [LEAVES[1]],
        [b"short", *proof[1:]],
    ):
        with pytest.raises(Corrupt):
            merkle.verify_inclusion(leaf, index, size, wrong, root)
    other = data.draw(st.integers(0, size - 1))
    if other != index:
        with pytest.raises(Corrupt):
            merkle.verify_inclusion(leaf, other, size, proof, root)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_to_a_consistency_proof_fails(data: st.DataObject) -> None:
    """A flipped bit in either root or any hash, or a proof of another length, does not verify."""
    new = data.draw(st.integers(0, 300))
    old = data.draw(st.integers(0, new))
    proof = merkle.consistency_proof(old, new, read_node)
    parts = [mth(LEAVES[:old]), mth(LEAVES[:new]), *proof]
    # from size 0 anything may follow, so there the new root is free
    which = data.draw(
        st.sampled_from([n for n in range(len(parts)) if (old, n) != (0, 1) or new == 0])
    )
    bit = data.draw(st.integers(0, 255))
    parts[which] = (int.from_bytes(parts[which], "big") ^ (1 << bit)).to_bytes(32, "big")
    with pytest.raises(Corrupt):
        merkle.verify_consistency(old, parts[0], new, parts[1], parts[2:])
    for wrong in ([*proof, LEAVES[0]], proof[:-1] if proof else [LEAVES[1]]):
        with pytest.raises(Corrupt):
            merkle.verify_consistency(old, mth(LEAVES[:old]), new, mth(LEAVES[:new]), wrong)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 4), (0, 1 << 64)])
def test_inclusion_outside_the_tree_is_refused(index: int, size: int) -> None:
    """Neither making nor checking a proof of an entry outside the tree is possible."""
    with pytest.raises(Refused):
        merkle.inclusion_proof(index, size, read_node)
    with pytest.raises(Refused):
        merkle.verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


@pytest.mark.parametrize(("old", "new"), [(2, 1), (-1, 4), (0, 1 << 64)])
def test_consistency_of_shrinking_trees_is_refused(old: int, new: int) -> None:
    """A log never shrinks, so a smaller new size is not a question."""
    with pytest.raises(Refused):
        merkle.consistency_proof(old, new, read_node)
    with pytest.raises(Refused):
        merkle.verify_consistency(old, LEAVES[0], new, LEAVES[0], [])


@pytest.mark.parametrize(("start", "end"), [(1, 3), (2, 5), (3, 2), (-1, 0)])
def test_ranges_that_are_no_subtree_are_refused(start: int, end: int) -> None:
    """Only subtrees of the RFC's recursion have a root."""
    with pytest.raises(Refused):
        merkle.subtree_root(start, end, read_node)
