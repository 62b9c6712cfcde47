"""A small aggregate for tests of the commit path: an account, its deposits and withdrawals.

It does everything a decider may do: events (several at once), jobs, sequence numbers, replies, refusals, commands
that change nothing; and what none should do: raise something that is not one of our errors, or reply with what
cannot be encoded.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from outlast.core.decider import Command, Deciders, Decision, Event, NewJob
from outlast.core.errors import Refused
from outlast.core.work.job import JobDecider

KIND = "ledger.account"
JOB = "ledger.post"
"""The kind of job a deposit may ask for."""


class Deposited(Event, frozen=True, kw_only=True):
    """Money came in. ``number`` is the sequence number it was given, 0: none asked for."""

    name: ClassVar[str] = "ledger.deposited"
    amount: int
    number: int = 0
    memo: str = ""


class Withdrawn(Event, frozen=True, kw_only=True):
    """Money went out."""

    name: ClassVar[str] = "ledger.withdrawn"
    amount: int


class Deposit(Command, frozen=True, kw_only=True):
    """Put ``amount`` in, as ``parts`` events, and ask for ``jobs`` jobs. ``counter`` names a number it wants."""

    amount: int
    parts: int = 1
    jobs: int = 0
    job_kind: str = JOB
    run_at_ms: int = 0
    job_bytes: int = 0
    counter: str = ""
    memo: str = ""


class Withdraw(Command, frozen=True, kw_only=True):
    """Take ``amount`` out; Refused ``overdrawn`` beyond the balance."""

    amount: int


class Look(Command, frozen=True, kw_only=True):
    """Ask for the balance; changes nothing."""


class Explode(Command, frozen=True, kw_only=True):
    """A bug: the decider raises what is not ours."""


class Mumble(Command, frozen=True, kw_only=True):
    """A bug: the decider's reply cannot be encoded."""


class Post(msgspec.Struct, frozen=True):
    """Payload of a job: which deposit, and ballast."""

    part: int
    ballast: str = ""


class Balance(msgspec.Struct, frozen=True):
    """The reply to every command that succeeds."""

    balance: int


class Unspeakable(msgspec.Struct, frozen=True):
    """A reply that JSON has no form for."""

    value: object


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The fold: what is there, and how many events led to it."""

    label: str = "empty"
    balance: int = 0
    events: int = 0


class LedgerDecider:
    """`Decider` of accounts."""

    kind = KIND
    state = Account
    events = (Deposited, Withdrawn)

    def decide(self, command: Any, state: Account | None) -> Decision[Deposited | Withdrawn]:
        """See the commands."""
        balance = state.balance if state else 0
        if isinstance(command, Deposit):
            return _deposit(command, balance)
        if isinstance(command, Withdraw):
            if command.amount > balance:
                raise Refused("overdrawn", f"{command.amount} is more than {balance}")
            gone = Withdrawn(amount=command.amount)
            return Decision(events=(gone,), reply=Balance(balance - command.amount))
        if isinstance(command, Look):
            return Decision(reply=Balance(balance))
        if isinstance(command, Mumble):
            return Decision(events=(Deposited(amount=1),), reply=Unspeakable(object()))
        raise RuntimeError("a planted bug")

    def evolve(self, state: Account | None, event: Deposited | Withdrawn) -> Account:
        """Add or take away."""
        old = state or Account()
        delta = event.amount if isinstance(event, Deposited) else -event.amount
        balance = old.balance + delta
        label = "open" if balance else "empty"
        return Account(label=label, balance=balance, events=old.events + 1)


def _deposit(command: Deposit, balance: int) -> Decision[Deposited | Withdrawn]:
    number = command.numbers[command.counter] if command.counter else 0
    part = Deposited(amount=command.amount, number=number, memo=command.memo)
    jobs = tuple(
        NewJob(
            kind=command.job_kind,
            payload=Post(at, "x" * command.job_bytes),
            run_at_ms=command.run_at_ms,
        )
        for at in range(command.jobs)
    )
    total = balance + command.amount * command.parts
    return Decision(events=(part,) * command.parts, jobs=jobs, reply=Balance(total))


def ledger_deciders() -> Deciders:
    """The registry that knows accounts and job histories."""
    return Deciders([LedgerDecider(), JobDecider()])
