"""Looks at every copy of one blob and replaces the bad ones by a good one.

Promises: nothing is written over unless a copy proven good is at hand, and what is written is checked against its
digest on the way; a bad copy is removed only just before its replacement is written.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable
from outlast.core.replicas.judge import Copy, Judgement, judge
from outlast.core.replicas.store import CALL_S, NEXT_BYTES_S, One

TRIES = 2
"""How often a copy is read that a store, well otherwise, cannot give: some find damage themselves and break off."""

Passed = Callable[[int], None]
"""Told of bytes as they are read, to bound the rate."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a blob. ``mended`` were bad and are good now; ``unasked`` stores could not be reached, so
    nothing is said of their copies. ``size`` is of a good copy."""

    judgement: Judgement
    mended: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    size: int = 0


def _uncounted(_size: int) -> None:
    return


async def look(
    stores: Mapping[str, One],
    blob: str,
    *,
    skip: Sequence[str] = (),
    mend: bool = True,
    passed: Passed = _uncounted,
) -> Looked:
    """Judge all copies but those of ``skip`` (stores that owe theirs), and ``mend`` what can be mended. Raises
    Unavailable when a repair fails; then it is to be done again."""
    copies: dict[str, Copy] = {}
    unasked: list[str] = []
    for name, store in stores.items():
        if name in skip:
            continue
        copy_there = await _tried(store, blob, passed)
        if copy_there is None:
            unasked.append(name)
        else:
            copies[name] = copy_there
    judgement = judge(copies)
    mended: list[str] = []
    if mend and judgement.good:
        for name, problem in judgement.bad.items():
            if problem == "corrupt":
                await stores[name].delete(blob)
            await copy(stores, judgement.good, name, blob, judgement.digest)
            mended.append(name)
    size = next((copies[name].size for name in judgement.good), 0)
    return Looked(judgement=judgement, mended=tuple(mended), unasked=tuple(unasked), size=size)


async def copy(
    stores: Mapping[str, One], sources: Sequence[str], target: str, blob: str, digest: str
) -> str:
    """Copy a blob into ``target`` from the first of ``sources`` that gives it whole and right; its name. ``digest``
    empty: as its store noted it. Raises what the last source or the target raised; Refused ``blob-not-found`` when
    every source says so."""
    errors: list[OutlastError] = []
    for source in sources:
        if source == target:
            continue
        store = stores[source]
        try:
            async with asyncio.timeout(CALL_S):
                expected = digest or await store.digest(blob) or ""
            await stores[target].put(blob, _checked(store, blob, expected))
            return source
        except TimeoutError:
            errors.append(Unavailable("unreachable", f"store {source} does not answer"))
        except OutlastError as error:
            errors.append(error)
    absent = [e for e in errors if isinstance(e, Refused) and e.code == "blob-not-found"]
    raise next((e for e in errors if e not in absent), None) or (
        absent[0] if absent else Unavailable("blob-no-source", f"no store gives blob {blob}")
    )


async def _tried(store: One, blob: str, passed: Passed) -> Copy | None:
    """What a store has; None where it cannot be asked. A copy that cannot be read while its store is well is there
    and is not right."""
    for _ in range(TRIES):
        try:
            return await _copy_in(store, blob, passed)
        except OutlastError as error:
            if error.retry_after_s is not None or not await _is_well(store):
                return None
    return Copy(found=True)


async def _is_well(store: One) -> bool:
    """Whether a store answers: then what it could not give is damaged, and not merely out of reach."""
    try:
        async with asyncio.timeout(CALL_S):
            await store.check()
    except (OutlastError, TimeoutError):
        return False
    return True


async def _copy_in(store: One, blob: str, passed: Passed) -> Copy:
    try:
        async with asyncio.timeout(CALL_S):
            noted = await store.digest(blob)
    except TimeoutError:
        raise Unavailable("unreachable", "the store does not answer") from None
    except Refused as error:
        if error.code == "blob-not-found":
            return Copy(found=False)
        raise
    sha256, size = hashlib.sha256(), 0
    try:
        async for piece in _pieces(store, blob):
            sha256.update(piece)
            size += len(piece)
            passed(len(piece))
    except Corrupt:
        return Copy(found=True, noted=noted)
    except Refused as error:
        if error.code == "blob-not-found":
            return Copy(found=False)
        raise
    return Copy(found=True, actual=sha256.hexdigest(), noted=noted, size=size)


async def _pieces(store: One, blob: str) -> AsyncIterator[bytes]:
    stream = store.get(blob)
    while True:
        try:
            async with asyncio.timeout(NEXT_BYTES_S):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Unavailable("unreachable", "the store is silent") from None
        yield piece


async def _checked(store: One, blob: str, digest: str) -> AsyncIterator[bytes]:
    """A blob for another store; breaks off at its end when it is not what it must be."""
    sha256 = hashlib.sha256()
    async for piece in _pieces(store, blob):
        sha256.update(piece)
        yield piece
    if digest and sha256.hexdigest() != digest:
        raise Corrupt("blob-corrupt", f"blob {blob} is not what was put")
