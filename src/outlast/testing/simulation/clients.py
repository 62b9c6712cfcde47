"""Whoever sends the simulated site its work: clients that repeat themselves, approve, and change their minds.

A client sends one request under one idempotency key until it has an answer, to whichever node is up, and may send
it again although it had one. As the API does, each try carries a fresh request id: only the key makes it the same.
"""

from __future__ import annotations

from typing import Any

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.commit import Idempotency, Receipt, Submission
from outlast.core.decider import Command
from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.signing.model.request import (
    KIND,
    ApproveRequest,
    CancelRequest,
    Place,
    RequestSignature,
)
from outlast.testing.simulation.door import Answer
from outlast.testing.simulation.engine import Asked, Reply, Simulation, Sleep
from outlast.testing.simulation.node import Node
from outlast.testing.simulation.site import Site

TENANTS = ("t1", "t2")
CLIENT_PATIENCE_MS = 3_000
"""How long a client waits for an answer before it takes it for lost."""


class Plea(msgspec.Struct):
    """One request of one client, and what came of it. ``receipt`` is the first answer it got."""

    key: str
    tenant: str
    class_name: str
    places: int
    document: str
    blob: BlobRef
    tries: int = 0
    receipt: Receipt | None = None
    cancelled: bool = False
    finished: bool = False


class Crowd:
    """All clients of a seed, and the way from whoever asks to a node and back."""

    def __init__(self, site: Site, nodes: list[Node], pleas: list[Plea]) -> None:
        self._site = site
        self._sim: Simulation = site.sim
        self._nodes = nodes
        self.pleas = pleas

    def start(self) -> None:
        """Let everybody come when they come."""
        for plea in self.pleas:
            self._sim.after(
                self._sim.between(0, self._site.swarm.trouble_ms * 0.7), self._arrive, plea
            )

    def _arrive(self, plea: Plea) -> None:
        self._sim.spawn(self._client(plea))

    # -- clients ----------------------------------------------------------------------------------

    async def _client(self, plea: Plea) -> None:
        checks, faults, sim = self._site.checks, self._site.faults, self._sim
        await self._until_answered(plea)
        assert plea.receipt is not None
        while faults.fires("client repeats itself"):
            await Sleep(sim, sim.between(1, 4_000))
            await self._until_answered(plea)
        if faults.fires("client repeats itself"):
            await self._other_body(plea)
        if self._site.classes[plea.class_name].manual_approval:
            await Sleep(sim, sim.between(1, 2_000))
            await self._insist(plea, ApproveRequest(at_ms=0, by="bob"))
            checks.reachable("request approved")
        if faults.fires("client changes its mind"):
            await Sleep(sim, sim.between(1, 1_500))
            await self._withdraw(plea)
        plea.finished = True

    async def _until_answered(self, plea: Plea) -> None:
        """Send until there is an answer; it must be the same answer every time."""
        checks = self._site.checks
        while True:
            plea.tries += 1
            try:
                receipt: Receipt = await self.call(self._ask(plea, plea.key.encode()))
            except OutlastError as error:
                # nothing but trouble may turn a good request away
                checks.always(not isinstance(error, Refused), f"{plea.key} refused: {error}")
                if isinstance(error, Unknown):
                    checks.reachable("answer lost, retried with its key")
                await Sleep(self._sim, self._sim.between(10, 800))
                continue
            self._answered(plea, receipt)
            return

    def _answered(self, plea: Plea, receipt: Receipt) -> None:
        checks = self._site.checks
        plain = msgspec.structs.replace(receipt, replayed=False)
        if receipt.replayed:
            checks.reachable("answer replayed")
        self._sim.note(f"client {plea.key} has its answer: {receipt.stream} at {receipt.index}")
        if plea.receipt is None:
            plea.receipt = plain
            there = self._site.store.disk.head.size
            checks.always(
                receipt.index < there, f"{plea.key} was told of an entry that is not there"
            )
        checks.always(plea.receipt == plain, f"{plea.key} got another answer to the same key")

    async def _other_body(self, plea: Plea) -> None:
        while True:
            try:
                await self.call(self._ask(plea, b"another body"))
            except Refused as error:
                self._site.checks.always(error.code == "idempotency-key-reused", str(error))
                self._site.checks.reachable("key reused with another body")
                return
            except OutlastError:
                await Sleep(self._sim, self._sim.between(10, 800))
            else:
                self._site.checks.always(False, f"{plea.key} was taken with another body")

    def _ask(self, plea: Plea, body: bytes) -> Submission:
        document_class = self._site.classes[plea.class_name]
        command = RequestSignature(
            at_ms=0,
            by="alice",
            document=plea.document,
            document_sha256=plea.blob.sha256,
            class_name=plea.class_name,
            level=document_class.level,
            format="pades" if plea.class_name.startswith("pades") else "cms",
            places=tuple(Place(key=f"key-{at % 2}") for at in range(plea.places)),
            owe_timestamp=document_class.owe_timestamp,
            approval=document_class.manual_approval,
        )
        return self._submission(
            plea, f"{plea.key}-{plea.tries}", command, Idempotency(plea.key, body)
        )

    async def _withdraw(self, plea: Plea) -> None:
        try:
            await self._insist(plea, CancelRequest(at_ms=0, reason="changed my mind"))
        except Refused as error:
            self._site.checks.always(error.code == "too-late", str(error))
            return
        plea.cancelled = True
        self._site.checks.reachable("request cancelled")

    async def _insist(self, plea: Plea, command: Command) -> None:
        """Until it is answered; Refused is an answer."""
        assert plea.receipt is not None
        await self.insist(self._submission(plea, plea.receipt.stream, command, None))

    # -- the way there and back -------------------------------------------------------------------

    def _submission(
        self, plea: Plea, stream: str, command: Command, idempotency: Idempotency | None
    ) -> Submission:
        return Submission(
            tenant=plea.tenant,
            actor="client",
            kind=KIND,
            stream=stream,
            command=command,
            idempotency=idempotency,
        )

    async def insist(self, submission: Submission) -> None:
        """Until it is answered; Refused is an answer."""
        while True:
            try:
                await self.call(submission)
                return
            except Refused:
                raise
            except OutlastError:
                await Sleep(self._sim, self._sim.between(10, 800))

    async def call(self, submission: Submission) -> Any:
        """To a node that is up, or after a while Unknown: the answer may be lost, or never have been made."""
        sim = self._sim
        up = [node for node in self._nodes if node.serving]
        self._site.checks.sometimes(not up, "every node is down at once")
        if not up:
            await Sleep(sim, 300)
            raise Unknown("no-connection", "nobody is there")
        node = sim.rng.choice(up)
        command = msgspec.structs.replace(submission.command, at_ms=node.clock.now_ms())
        submission = msgspec.structs.replace(submission, command=command)
        lost = self._site.faults.fires("answer lost on the way")

        def ask(reply: Reply) -> None:
            def arrives(value: Any, error: BaseException | None) -> None:
                if not lost:
                    sim.after(sim.between(0, 2), reply, value, error)

            sim.after(sim.between(0, 2), self._let_in, node, submission, arrives, of=node)
            sim.after(CLIENT_PATIENCE_MS, reply, None, Unknown("answer-lost", "no answer in time"))

        return await Asked(ask)

    def _let_in(self, node: Node, submission: Submission, answer: Answer) -> None:
        """At the node's door: new work is not always taken."""
        refused = None
        if isinstance(submission.command, RequestSignature):
            refused = node.eyes.refusal()
        elif self._site.away:
            refused = Unavailable("read-only", "who restored a store lets nobody in meanwhile")
        if refused is not None:
            self._site.checks.reachable("new work refused while read-only")
            answer(None, refused)
            return
        node.ask(submission, answer)
