"""The Merkle tree of RFC 6962 (section 2.1) and RFC 9162, as pure functions.

Guarantees: every hash, proof and verdict here is the one those documents define, with SHA-256 and the domain
bytes 0x00 (leaf) and 0x01 (node). Nothing is read from a disk, a clock or a random source: whoever makes a proof
passes a *node reader*, ``read_node(level, index) -> hash``, for complete subtrees only: node ``(level, index)``
covers the leaves ``[index << level, (index + 1) << level)``.

Refuses (``Refused`` ``proof-range``) questions that make no sense, such as an index beyond the size. A proof that
does not prove what it should is ``Corrupt``: nothing may be built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from outlast.core.errors import Corrupt, Refused

HASH_BYTES = 32
"""Length of every hash of the tree: SHA-256."""

MAX_SIZE = (1 << 63) - 1
"""Largest number of leaves a tree may claim; SQLite and the witness protocols end there too."""

EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves (RFC 6962, 2.1: MTH({}) = SHA-256())."""

ReadNode = Callable[[int, int], bytes]
"""``(level, index) -> hash`` of a complete subtree of ``1 << level`` leaves."""

_SIZE_BYTES = 8


def leaf_hash(data: bytes) -> bytes:
    """The hash of one entry: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbouring subtrees: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class CompactRange:
    """The right edge of a tree: the roots of its complete subtrees, largest first, at most 63 hashes.

    It is all that is needed to go on growing the tree and to know its root. Not thread-safe; ``copy`` before a
    change that may have to be undone.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if not 0 <= size <= MAX_SIZE or len(hashes) != size.bit_count():
            raise Corrupt(
                "tree-edge", f"{len(hashes)} hashes cannot be the edge of a tree of {size}"
            )
        if any(len(item) != HASH_BYTES for item in hashes):
            raise Corrupt("tree-edge", f"a hash of the tree's edge is not {HASH_BYTES} bytes long")
        self._size = size
        self._hashes = list(hashes)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The roots of the complete subtrees, largest first, one for each set bit of ``size``."""
        return tuple(self._hashes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash. One node hash on average, ``log2(size)`` at worst."""
        hashes, rest = self._hashes, self._size
        while rest & 1:
            leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
            rest >>= 1
        hashes.append(leaf)
        self._size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The root hash of the tree as it is now."""
        return _fold(self._hashes) if self._hashes else EMPTY_ROOT

    def copy(self) -> CompactRange:
        """An independent edge of the same tree."""
        twin = CompactRange()
        twin._size, twin._hashes = self._size, self._hashes.copy()
        return twin

    def encode(self) -> bytes:
        """The edge as bytes, for a row: uint64 big-endian size, then the hashes."""
        return self._size.to_bytes(_SIZE_BYTES, "big") + b"".join(self._hashes)

    @classmethod
    def decode(cls, data: bytes) -> CompactRange:
        """The edge that ``encode`` wrote; raises Corrupt ``tree-edge`` when it cannot be one."""
        hashes, rest = divmod(len(data) - _SIZE_BYTES, HASH_BYTES)
        if rest or hashes < 0:
            raise Corrupt("tree-edge", f"{len(data)} bytes cannot be a tree's edge")
        size = int.from_bytes(data[:_SIZE_BYTES], "big")
        cuts = range(_SIZE_BYTES, len(data), HASH_BYTES)
        return cls(size, [data[at : at + HASH_BYTES] for at in cuts])


def subtree_root(start: int, end: int, read_node: ReadNode) -> bytes:
    """MTH(D[start:end]) of RFC 6962, 2.1, read from complete subtrees.

    ``start`` must be a multiple of the smallest power of two that is at least ``end - start``, as in every
    subtree the RFC's recursion visits; ``(0, size)`` is the whole tree.
    """
    if not 0 <= start <= end <= MAX_SIZE or start & ((1 << (end - start - 1).bit_length()) - 1):
        raise Refused("proof-range", f"[{start}, {end}) is not a subtree")
    hashes: list[bytes] = []
    while start < end:
        level = (end - start).bit_length() - 1
        hashes.append(read_node(level, start >> level))
        start += 1 << level
    return _fold(hashes) if hashes else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read_node: ReadNode) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, 2.1.1: from the leaf's sibling up to the root's child."""
    if not 0 <= index < size <= MAX_SIZE:
        raise Refused("proof-range", f"no entry {index} in a tree of size {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(subtree_root(middle, end, read_node))
            end = middle
        else:
            proof.append(subtree_root(start, middle, read_node))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old: int, new: int, read_node: ReadNode) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, 2.1.2; empty when ``old`` is 0 or equals ``new``."""
    if not 0 <= old <= new <= MAX_SIZE:
        raise Refused("proof-range", f"a tree of size {new} cannot extend one of size {old}")
    if old in (0, new):
        return []
    proof: list[bytes] = []
    start, end = 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(subtree_root(middle, end, read_node))
            end = middle
        else:
            proof.append(subtree_root(start, middle, read_node))
            start = middle
    if (
        start
    ):  # the old tree is not itself a node of the new one, so the proof begins with its last piece
        proof.append(subtree_root(start, end, read_node))
    proof.reverse()
    return proof


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that ``leaf`` (a leaf hash) is entry ``index`` of the tree ``(size, root)`` (RFC 9162, 2.1.3.2).

    Raises Corrupt ``inclusion-proof`` when the proof does not show it, Refused ``proof-range`` for an index
    outside the tree.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise Refused("proof-range", f"no entry {index} in a tree of size {size}")
    _check_lengths("inclusion-proof", (leaf, root, *proof))
    at, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Corrupt("inclusion-proof", "the inclusion proof is too long")
        if at & 1 or at == last:
            computed = node_hash(sibling, computed)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        at, last = at >> 1, last >> 1
    if last or computed != root:
        raise Corrupt("inclusion-proof", f"entry {index} is not in the tree of size {size}")


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree ``(new, new_root)`` extends ``(old, old_root)`` (RFC 9162, 2.1.4.2).

    Raises Corrupt ``consistency-proof`` when the proof does not show it, Refused ``proof-range`` when ``new`` is
    smaller than ``old``.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise Refused("proof-range", f"a tree of size {new} cannot extend one of size {old}")
    _check_lengths("consistency-proof", (old_root, new_root, *proof))
    if old in (0, new):
        agree = (old != new or old_root == new_root) and (old != 0 or old_root == EMPTY_ROOT)
        if proof or not agree:
            raise Corrupt("consistency-proof", f"the roots at sizes {old} and {new} do not agree")
        return
    path = list(proof)
    if not old & (old - 1):
        path.insert(0, old_root)  # the old tree is a node of the new one, so the proof omits it
    if not path:
        raise Corrupt("consistency-proof", "the consistency proof is empty")
    if _climb(old, new, path) != (old_root, new_root):
        raise Corrupt("consistency-proof", f"size {new} does not extend size {old}")


def _climb(old: int, new: int, path: list[bytes]) -> tuple[bytes, bytes]:
    """The two roots that a consistency path leads to, steps 3 to 6 of RFC 9162, 2.1.4.2."""
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old_hash = new_hash = path[0]
    for item in path[1:]:
        if last == 0:
            raise Corrupt("consistency-proof", "the consistency proof is too long")
        if at & 1 or at == last:
            old_hash, new_hash = node_hash(item, old_hash), node_hash(item, new_hash)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new_hash = node_hash(new_hash, item)
        at, last = at >> 1, last >> 1
    if last:
        raise Corrupt("consistency-proof", "the consistency proof is too short")
    return old_hash, new_hash


def _fold(hashes: Sequence[bytes]) -> bytes:
    """One root from neighbouring subtrees, largest first."""
    computed = hashes[-1]
    for left in reversed(hashes[:-1]):
        computed = sha256(b"\x01" + left + computed).digest()
    return computed


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (k of RFC 6962, 2.1)."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_lengths(code: str, hashes: Sequence[bytes]) -> None:
    if any(len(item) != HASH_BYTES for item in hashes):
        raise Corrupt(code, f"a hash of the proof is not {HASH_BYTES} bytes long")
