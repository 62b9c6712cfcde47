"""What may be found on a disk after the power went: replays steps, and enumerates or samples the survivors."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from posixpath import dirname

import msgspec

from outlast.core.ids import Random
from outlast.testing.powerloss.steps import ROOT, Step

SECTORS_BYTES = (512, 4096)
"""Sizes of what is written whole: of old disks, and of flash and new ones."""

EXHAUSTIVE_BITS = 4
"""Up to so many unsynced things at a point, all their subsets are looked at unless told otherwise; beyond, some."""

Tree = dict[str, bytes | None]
"""Files by name, with their bytes; directories with None."""


class Cut(msgspec.Struct, frozen=True):
    """What the disk holds when the power went after ``point`` steps."""

    point: int
    tree: Tree


class _Piece:
    """A write or truncation of a file. Not ``durable``: it may be lost; ``stuck``: no later sync writes it either."""

    __slots__ = ("durable", "step", "stuck")

    def __init__(self, step: Step) -> None:
        self.step = step
        self.durable = self.stuck = False


class _File:
    """A file's durable beginning, and what was done to it since."""

    def __init__(self) -> None:
        self.base = bytearray()
        self.pieces: list[_Piece] = []

    def sync(self) -> None:
        for piece in self.pieces:
            piece.durable = piece.durable or not piece.stuck
        while self.pieces and self.pieces[0].durable:
            _apply(self.base, self.pieces.pop(0).step)

    def fail_sync(self) -> None:
        for piece in self.pieces:
            piece.stuck = True

    def found(self, keep: _Keep) -> bytes:
        content = bytearray(self.base)
        for piece in self.pieces:
            for part in [piece.step] if piece.durable else keep.parts(piece.step):
                _apply(content, part)
        return bytes(content)


class _Change(msgspec.Struct):
    """A name that came (``file`` None: a directory) or went."""

    name: str
    came: bool
    file: _File | None = None


class _Keep:
    """Which of the unsynced things survive. The default: none."""

    def name(self) -> bool:
        """Whether the next unsynced change of a name happened."""
        return False

    def parts(self, step: Step) -> list[Step]:
        """What there is of an unsynced write."""
        return []


class _Mask(_Keep):
    """Those whose bit is set."""

    def __init__(self, mask: int) -> None:
        self._mask = mask

    def name(self) -> bool:
        bit, self._mask = self._mask & 1, self._mask >> 1
        return bool(bit)

    def parts(self, step: Step) -> list[Step]:
        return [step] if self.name() else []


class _Chance(_Keep):
    """Any; writes may be torn at any sector, into a beginning or into any of their sectors."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._share = rng.choice((0.1, 0.5, 0.9))

    def name(self) -> bool:
        return self._rng.random() < self._share

    def parts(self, step: Step) -> list[Step]:
        if self._rng.random() >= self._share:
            return []
        if step.kind != "write" or self._rng.random() < 0.4:
            return [step]
        sectors = _sectors(step, self._rng.choice(SECTORS_BYTES))
        if self._rng.random() < 0.5:
            return sectors[: self._rng.randrange(len(sectors) + 1)]
        return [sector for sector in sectors if self._rng.random() < 0.5]


class VolatileDisk:
    """The disk after the first steps of a record; only ever goes forward."""

    def __init__(self) -> None:
        self._names: dict[str, _File | None] = {ROOT: None}
        self._durable: dict[str, _File | None] = {ROOT: None}
        self._changes: list[_Change] = []

    def do(self, step: Step) -> None:
        """Replay one step."""
        if step.kind in ("write", "truncate"):
            self._file(step.name).pieces.append(_Piece(step))
        elif step.kind == "sync":
            self._file(step.name).sync()
        elif step.kind == "failed-sync":
            self._file(step.name).fail_sync()
        elif step.kind == "sync-directory":
            self._sync_directory(step.name)
        elif step.kind == "make":
            self._come(step.name, None)
        elif step.kind in ("link", "rename"):
            self._come(step.target, self._names[step.name])
        if step.kind in ("remove", "rename"):
            self._go(step.name)

    def _file(self, name: str) -> _File:
        if name not in self._names:
            self._come(name, _File())
        file = self._names[name]
        assert file is not None, f"{name} is a directory"
        return file

    def _come(self, name: str, file: _File | None) -> None:
        self._names[name] = file
        self._changes.append(_Change(name, True, file))

    def _go(self, name: str) -> None:
        for one in [one for one in self._names if one == name or one.startswith(f"{name}/")]:
            del self._names[one]
            self._changes.append(_Change(one, False))

    def _sync_directory(self, name: str) -> None:
        for change in self._changes:
            if _parent(change.name) == name:
                _alter(self._durable, change)
        self._changes = [change for change in self._changes if _parent(change.name) != name]

    def unsynced(self) -> int:
        """How many things may or may not survive."""
        files = {id(file): file for file in self._reachable() if file is not None}
        pieces = sum(not p.durable for file in files.values() for p in file.pieces)
        return len(self._changes) + pieces

    def _reachable(self) -> list[_File | None]:
        return [*self._durable.values(), *(change.file for change in self._changes if change.came)]

    def live(self) -> Tree:
        """What whoever reads it now sees, whether it has been synced or not."""
        return self.found(_Mask((1 << self.unsynced()) - 1))

    def found(self, keep: _Keep) -> Tree:
        """What is there after a cut, if ``keep`` decides."""
        names = dict(self._durable)
        for change in self._changes:
            if keep.name():
                _alter(names, change)
        contents: dict[int, bytes] = {}
        tree: Tree = {}
        for name in sorted(names):
            file = names[name]
            if name != ROOT and _parent(name) not in tree:
                continue  # its directory was lost
            if file is not None and id(file) not in contents:
                contents[id(file)] = file.found(keep)
            tree[name] = None if file is None else contents[id(file)]
        return tree


def cuts(
    steps: Sequence[Step],
    samples: int,
    seed: int,
    points: Callable[[int], bool] = lambda _: True,
    exhaustive_bits: int = EXHAUSTIVE_BITS,
) -> Iterator[Cut]:
    """What may be found after a cut at each point, each different one once.

    None and all of the unsynced always; every subset where there are at most ``exhaustive_bits`` of them; and
    ``samples`` that are drawn, torn ones among them. Notes are steps too: the point after a note differs from the one
    before it.
    """
    disk, rng = VolatileDisk(), Random(seed)
    seen: set[tuple[bytes, int]] = set()
    notes = 0
    for point in range(len(steps) + 1):
        if points(point):
            for tree in _survivors(disk, samples, rng, exhaustive_bits):
                known = (_digest(tree), notes)
                if known not in seen:
                    seen.add(known)
                    yield Cut(point, tree)
        if point < len(steps):
            notes += steps[point].kind == "note"
            disk.do(steps[point])


def _survivors(
    disk: VolatileDisk, samples: int, rng: Random, exhaustive_bits: int
) -> Iterator[Tree]:
    bits = disk.unsynced()
    masks = range(1 << bits) if bits <= exhaustive_bits else (0, (1 << bits) - 1)
    for mask in masks:
        yield disk.found(_Mask(mask))
    if bits:
        for _ in range(samples):
            yield disk.found(_Chance(rng))


def write_tree(tree: Tree, folder: pathlib.Path) -> None:
    """Make ``folder`` with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).write_bytes(content)


def _digest(tree: Tree) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, content in tree.items():
        digest.update(f"{name}\0{-1 if content is None else len(content)}\0".encode())
        digest.update(content or b"")
    return digest.digest()


def _alter(names: dict[str, _File | None], change: _Change) -> None:
    if change.came:
        names[change.name] = change.file
    else:
        names.pop(change.name, None)


def _parent(name: str) -> str:
    return dirname(name) or ROOT


def _apply(content: bytearray, step: Step) -> None:
    if step.kind == "truncate":
        del content[step.offset :]
        content.extend(bytes(step.offset - len(content)))
        return
    content.extend(bytes(max(0, step.offset - len(content))))
    content[step.offset : step.offset + len(step.data)] = step.data


def _sectors(step: Step, size: int) -> list[Step]:
    """A write, cut at the sector bounds of the file."""
    parts: list[Step] = []
    at, end = step.offset, step.offset + len(step.data)
    while at < end:
        stop = min(end, (at // size + 1) * size)
        data = step.data[at - step.offset : stop - step.offset]
        parts.append(Step("write", step.name, at, data))
        at = stop
    return parts
