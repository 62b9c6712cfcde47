"""The fake fails exactly as it is told to, and its record says what took effect."""

from __future__ import annotations

import anyio
import pytest

from outlast.core.asymmetric import signature_is_valid
from outlast.core.errors import Refused, Unavailable, Unknown
from outlast.ports.keys import SignRequest
from outlast.testing.keys import GARBAGE, FakeSigner, Fault

pytestmark = pytest.mark.anyio


def request(operation: str = "o/1/1") -> SignRequest:
    """A request to the Ed25519 key."""
    return SignRequest(key_ref="ed25519", algorithm="ed25519", tbs=b"tbs", operation=operation)


async def test_failures_before_and_after_the_effect() -> None:
    """fail-before and throttle sign nothing; fail-after signs and loses the answer."""
    fake = FakeSigner.with_all_algorithms()
    fake.plan(
        Fault(kind="fail-before"),
        Fault(kind="throttle", retry_after_s=7),
        Fault(kind="refuse"),
        Fault(kind="fail-after"),
    )
    with pytest.raises(Unavailable):
        await fake.sign(request())
    with pytest.raises(Unavailable) as throttled:
        await fake.sign(request())
    assert throttled.value.retry_after_s == 7
    with pytest.raises(Refused, match="key-disabled"):
        await fake.sign(request())
    assert not fake.signed
    with pytest.raises(Unknown):
        await fake.sign(request("lost/1/1"))
    assert [r.operation for r in fake.signed] == ["lost/1/1"]
    assert await fake.sign(request())
    assert fake.calls == 5


async def test_lies() -> None:
    """garbage is no signature; other-bytes is a valid one, over other bytes."""
    fake = FakeSigner.with_all_algorithms()
    info = await fake.describe("ed25519")
    fake.plan(Fault(kind="garbage"), Fault(kind="other-bytes"))
    assert await fake.sign(request()) == GARBAGE
    other = await fake.sign(request())

    def valid(tbs: bytes) -> bool:
        return signature_is_valid(info.spki_der, "ed25519", tbs=tbs, signature=other)

    assert not valid(b"tbs")
    assert valid(b"other tbs")
    assert not fake.signed


async def test_late_and_hanging_answers() -> None:
    """late answers after its delay, hang never; hang-after has signed when its caller gives up."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.sleep(min(seconds, 0.01))

    fake = FakeSigner(sleep=sleep)
    fake.generate("ed25519", "ed25519")
    fake.plan(Fault(kind="late", delay_s=3))
    assert await fake.sign(request())
    assert slept == [3]

    real = FakeSigner.with_all_algorithms()
    for kind, effects in (("hang", 0), ("hang-after", 1)):
        real.plan(Fault(kind=kind))  # type: ignore[arg-type]  # the loop's literals widen to str
        with anyio.move_on_after(0.02) as scope:
            await real.sign(request())
        assert scope.cancelled_caught
        assert len(real.signed) == effects


async def test_always_and_the_plan() -> None:
    """The plan goes first, then what always holds, until healed."""
    fake = FakeSigner.with_all_algorithms()
    fake.always(Fault(kind="fail-before"))
    fake.plan(None)
    await fake.sign(request())
    with pytest.raises(Unavailable):
        await fake.sign(request())
    fake.always(None)
    await fake.sign(request())
    fake.down = True
    for call in (fake.check(), fake.describe("ed25519"), fake.sign(request())):
        with pytest.raises(Unavailable):
            await call
