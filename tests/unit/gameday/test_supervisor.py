"""Nothing that a game day starts outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outlast.core.clock import SystemClock
from outlast.core.errors import Unavailable
from outlast.gameday.faults import Fault, play
from outlast.gameday.supervisor import Program, Supervisor

pytestmark = pytest.mark.anyio

SLEEPER = Program("sleeper", ("/bin/sh", "-c", "echo listening now; exec sleep 600"))

OWNER = """
import asyncio, sys
from pathlib import Path
from outlast.core.clock import SystemClock
from outlast.gameday.supervisor import Program, Supervisor

async def main():
    async with Supervisor(Path(sys.argv[1]), SystemClock()) as supervisor:
        sleeper = Program("sleeper", ("/bin/sh", "-c", "echo listening now; exec sleep 600"))
        gone = await supervisor.start(sleeper)
        kept = await supervisor.start(sleeper)
        await supervisor.kill(gone)
        print(gone.pid, kept.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Whether a process of that id is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    """Whether it ends in time."""
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


async def test_start_stop_kill(tmp_path: Path) -> None:
    """A process is ready when it says so; kill and stop end it; starting again appends to its log."""
    async with Supervisor(tmp_path, SystemClock()) as supervisor:
        first = await supervisor.start(SLEEPER)
        assert first.alive()
        assert first.printed() == "listening now\n"
        await supervisor.kill(first)
        assert not first.alive()
        second = await supervisor.start(SLEEPER)
        assert second.pid != first.pid
        assert second.printed() == "listening now\n"
        await supervisor.stop(second)
        assert not second.alive()
    assert (tmp_path / "sleeper.log").read_text() == "listening now\n" * 2


async def test_exit_ends_everything(tmp_path: Path) -> None:
    """Leaving the context, here by an error, ends all processes."""
    pids = []

    async def fail() -> None:
        async with Supervisor(tmp_path, SystemClock()) as supervisor:
            pids.extend([(await supervisor.start(SLEEPER)).pid for _ in range(3)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert len(pids) == 3
    assert not any(alive(pid) for pid in pids)


async def test_what_does_not_start(tmp_path: Path) -> None:
    """A process that ends before it is ready is an error with what it printed, tokens left out."""
    token = "ol_" + "a" * 32 + "_" + "B" * 43
    broken = Program("broken", ("/bin/sh", "-c", f"echo no luck {token}; exit 3"))
    async with Supervisor(tmp_path, SystemClock()) as supervisor:
        with pytest.raises(Unavailable) as failed:
            await supervisor.start(broken)
    assert failed.value.code == "process-failed"
    assert "no luck (a token)" in failed.value.message


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_owner_dies(tmp_path: Path, number: signal.Signals) -> None:
    """When the owner is killed outright, its guard kills what it had started."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        dead, kept = map(int, owner.stdout.readline().split())
        assert alive(kept)
        assert not alive(dead)
        os.kill(owner.pid, number)
        owner.wait(10)
        assert gone_within(kept, 5)


async def test_faults_come_in_order() -> None:
    """Each fault waits for its share of the progress and for those before it."""
    done, happened = 0.0, []

    def fault(name: str, at: float, gap_s: float = 0.0) -> Fault:
        async def act() -> None:
            happened.append((name, done))

        return Fault(at, gap_s, act)

    plan = [fault("a", 0.2), fault("b", 0.1), fault("c", 0.6, 0.05)]
    playing = asyncio.create_task(play(plan, lambda: done, SystemClock()))
    await asyncio.sleep(0.05)
    assert happened == []
    done = 0.3
    await asyncio.sleep(0.1)
    assert happened == [("a", 0.3), ("b", 0.3)]
    done = 1.0
    await asyncio.wait_for(playing, 5)
    assert happened[-1] == ("c", 1.0)
