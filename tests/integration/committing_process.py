"""A process that commits until it is killed, and says on stdout what was acknowledged, line by line.

    python committing_process.py DATABASE RUN [DIE_AT COUNT]

``RUN`` makes its keys its own. With ``DIE_AT`` it sends itself SIGKILL when it has come to that point for the
COUNT-th time: the points are the boundaries of a commit, put around the real store from outside.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys
import threading
from typing import Any

import msgspec

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Claim, Committer, Finish, Idempotency, Planner, Receipt, Submission
from outlast.core.store.port import Needs, Plan, Snapshot, WriteSet
from outlast.core.store.sqlite import engine
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.ledger import JOB, KIND, Deposit, ledger_deciders

SUBMITTERS = 8
COUNTER = "numbers"


class Death:
    """SIGKILL to this very process at the COUNT-th arrival at a point."""

    def __init__(self, point: str, count: int) -> None:
        self.point = point
        self.left = count

    def at(self, point: str) -> None:
        """We are at this point."""
        if point == self.point:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class MortalStore(SqliteStore):
    """The real store, with places to die around its steps."""

    death = Death("", 0)

    def _stage(self, needs: Needs, plan: Plan) -> WriteSet | None:
        self.death.at("before-begin")

        def planned(snapshot: Snapshot) -> WriteSet:
            self.death.at("after-load")
            write = plan(snapshot)
            self.death.at("after-plan")
            return write

        return super()._stage(needs, planned)

    def _commit(self, write: WriteSet) -> None:
        super()._commit(write)
        self.death.at("after-commit")

    def _write(self, write: WriteSet) -> None:
        super()._write(write)
        self.death.at("before-commit")


def die_during_checkpoints(death: Death) -> None:
    """Make checkpoints frequent, and die some time after one began, while it runs or soon after."""
    engine.CHECKPOINT_PAGES = 4
    run = engine._Checkpointer.after_commit

    def after_commit(self: Any) -> None:
        if self._pages > engine.CHECKPOINT_PAGES:
            threading.Timer(0.0002 * death.left, death.at, ("checkpoint",)).start()
        run(self)

    engine._Checkpointer.after_commit = after_commit  # type: ignore[method-assign]  # for this process


def say(*words: str) -> None:
    """One line, written at once: what is in the pipe survives us."""
    os.write(1, (" ".join(words) + "\n").encode())


def submission(key: str) -> Submission:
    """The command of a key; made again by whoever checks."""
    return Submission(
        tenant="t",
        actor="child",
        kind=KIND,
        stream=f"s{int(key.split('-')[1]) % 5}",
        command=Deposit(at_ms=0, amount=1, jobs=1, counter=COUNTER, memo=key),
        counters=(COUNTER,),
        idempotency=Idempotency(key, key.encode()),
    )


def job_result(job: int, lease: int) -> Submission:
    """The command that ends a job."""
    return Submission(
        tenant="t",
        actor="child",
        kind=KIND,
        stream="jobs",
        command=Deposit(at_ms=0, amount=1, memo=f"job-{job}"),
        finish=Finish(job=job, lease=lease),
    )


def acknowledged(line: str) -> tuple[str, Receipt]:
    """A line of ours: the key, and the receipt it got."""
    _, key, receipt = line.split(" ", 2)
    return key, msgspec.json.decode(receipt, type=Receipt)


async def submit_for_ever(committer: Committer, run: str, first: int) -> None:
    """One client: its next command when the last is acknowledged."""
    number = first
    while True:
        key = f"{run}-{number}"
        receipt = await committer.submit(submission(key))
        say("ack", key, msgspec.json.encode(receipt).decode())
        number += SUBMITTERS


async def work_for_ever(committer: Committer, clock: SystemClock, run: str) -> None:
    """One worker: claims, and ends each job with a command."""
    while True:
        now_ms = clock.now_ms()
        claim = Claim(worker=f"w-{run}", kinds=(JOB,), limit=4, now_ms=now_ms, ttl_ms=60_000)
        for job in await committer.claim(claim):
            receipt = await committer.submit(job_result(job.id, job.lease))
            say("ack", f"job-{job.id}", msgspec.json.encode(receipt).decode())


async def main(path: pathlib.Path, run: str, death: Death) -> None:
    """Open, commit, until killed."""
    MortalStore.death = death
    if death.point == "checkpoint":
        die_during_checkpoints(death)
    clock = SystemClock()
    store = await MortalStore.open(path)
    committer = Committer(store, Planner(ledger_deciders(), HybridClock(clock), "site"), clock)
    say("ready")
    async with asyncio.TaskGroup() as group:
        for first in range(SUBMITTERS):
            group.create_task(submit_for_ever(committer, run, first))
        group.create_task(work_for_ever(committer, clock, run))


if __name__ == "__main__":
    point, count = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else ("", 0)
    asyncio.run(main(pathlib.Path(sys.argv[1]), sys.argv[2], Death(point, count)))
