"""The simulator's heart: a heap of timed events, and coroutines that wait on it.

A coroutine under simulation awaits *wishes* only. Each wish says, when its turn comes, which event will resume
whoever made it; a wish nobody fulfils waits for ever, as a hung provider does. Events of a node that has crashed
since never happen; those of a node that stalls happen when it goes on, in their order.

Everything random comes from the seed, everything timed from the heap: the same seed gives the same trace.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from outlast.core.ids import Random

T = TypeVar("T")

START_MS = 1_800_000_000_000
"""Unix time at which every simulation begins."""
MAX_EVENTS = 400_000
"""Most events of one seed: a schedule that does not come to rest is a failure, not a wait."""


class Life(Protocol):
    """What an event belongs to. ``life`` grows with every start; ``stalled_until_ms`` is simulated time."""

    life: int
    stalled_until_ms: float

    def struck(self) -> int:
        """It dies instead of its event; returns how many events from now one dies again, 0: none."""
        ...

    def struck_down(self) -> None:
        """It dies."""
        ...

    def stall(self, for_ms: float) -> None:
        """Nothing of it goes on for so long; the rest of the world does."""
        ...


class Stuck(AssertionError):
    """MAX_EVENTS happened and the simulation still goes on."""


Event = tuple[float, float, int, Life | None, int, Callable[..., None], tuple[Any, ...]]
"""When it happens, when it was due (earlier where its node stalled), and what makes the order complete."""


class Simulation:
    """The heap, the time and the trace of one seed. ``now_ms`` is simulated time since the start."""

    def __init__(self, seed: str, *, keep_trace: bool = False) -> None:
        self.rng = Random(seed)
        self.now_ms = 0.0
        self.events = 0
        self.strike_in = 0
        """So many events of nodes from now, that event's node dies instead; 0: none does."""
        self.trace: list[str] | None = [] if keep_trace else None
        self._heap: list[Event] = []
        self._serial = 0
        self._hash = blake2b(digest_size=16)
        self.tasks: dict[Task, None] = {}
        """Those under way, oldest first."""

    @property
    def trace_hash(self) -> str:
        """Digest of everything noted so far."""
        return self._hash.hexdigest()

    def note(self, text: str) -> None:
        """Put a line into the trace."""
        line = f"{self.now_ms:12.3f} {text}"
        self._hash.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    def after(
        self, delay_ms: float, action: Callable[..., None], *args: Any, of: Life | None = None
    ) -> None:
        """Do it ``delay_ms`` from now, unless the life it belongs to has ended by then."""
        self._serial += 1
        at_ms = self.now_ms + delay_ms if delay_ms > 0.0 else self.now_ms
        life = 0 if of is None else of.life
        heapq.heappush(self._heap, (at_ms, at_ms, self._serial, of, life, action, args))

    def run(self, until: Callable[[], bool]) -> None:
        """Let events happen until the condition holds (asked after each) or there are none."""
        while self._heap and not until():
            at_ms, due_ms, serial, owner, life, action, args = heapq.heappop(self._heap)
            if at_ms > self.now_ms:
                self.now_ms = at_ms
            if owner is not None:
                if owner.life != life:
                    continue
                if owner.stalled_until_ms > self.now_ms:
                    until_ms = owner.stalled_until_ms
                    again = (until_ms, due_ms, serial, owner, life, action, args)
                    heapq.heappush(self._heap, again)
                    continue
                if self.strike_in:
                    self.strike_in -= 1
                    if not self.strike_in:
                        self.strike_in = owner.struck()
                        continue
            self.events += 1
            if self.events > MAX_EVENTS:
                raise Stuck(f"{MAX_EVENTS} events, and still going on")
            action(*args)

    def close(self) -> None:
        """Nothing more happens: every coroutine still waiting is closed."""
        for task in list(self.tasks):
            task.cancel()

    def chance(self, probability: float) -> bool:
        """True so often."""
        return probability > 0 and self.rng.random() < probability

    def between(self, low: float, high: float) -> float:
        """Uniform."""
        return low + (high - low) * self.rng.random()

    def spawn(
        self,
        work: Coroutine[Any, Any, T],
        *,
        of: Life | None = None,
        done: Callable[[T | None, BaseException | None], None] | None = None,
    ) -> Task:
        """Run a coroutine as a task, from the next event on."""
        task = Task(self, work, of, done)
        self.after(0.0, task.start, of=of)
        return task


class Wish(Awaitable[Any]):
    """Something to wait for. ``begin`` arranges for ``task.wake(turn, ...)``, or leaves it."""

    def __await__(self) -> Generator[Wish, Any, Any]:
        return (yield self)

    def begin(self, task: Task, turn: int) -> None:
        """Called when the task has stopped at this wish."""
        raise NotImplementedError


class Task:
    """A coroutine under way. ``turn`` numbers its waits, so that a late answer to an earlier one is dropped."""

    __slots__ = ("_done", "_sim", "_work", "ended", "of", "turn")

    def __init__(
        self,
        sim: Simulation,
        work: Coroutine[Any, Any, Any],
        of: Life | None,
        done: Callable[[Any, BaseException | None], None] | None,
    ) -> None:
        self._sim = sim
        self._work = work
        self._done = done
        self.of = of
        self.turn = 0
        self.ended = False
        sim.tasks[self] = None

    def start(self) -> None:
        """The first step."""
        if not self.ended:
            self._step(None, None)

    def wake(self, turn: int, value: Any = None, error: BaseException | None = None) -> None:
        """Go on from wait number ``turn`` with its result; ignored when it is no longer waiting for that."""
        if not self.ended and turn == self.turn:
            self._step(value, error)

    def cancel(self) -> None:
        """Stop it where it waits; its cleanup runs, nobody is told."""
        if not self.ended:
            self.ended = True
            self.turn += 1
            self._sim.tasks.pop(self, None)
            self._work.close()

    def _step(self, value: Any, error: BaseException | None) -> None:
        self.turn += 1
        try:
            wish = self._work.send(value) if error is None else self._work.throw(error)
        except StopIteration as stop:
            self._end(stop.value, None)
        except Exception as raised:
            self._end(None, raised)
        else:
            wish.begin(self, self.turn)

    def _end(self, value: Any, error: BaseException | None) -> None:
        self.ended = True
        self._sim.tasks.pop(self, None)
        if self._done is not None:
            self._done(value, error)
        elif error is not None:
            raise error


class Sleep(Wish):
    """Wait so long; math.inf: for ever."""

    def __init__(self, sim: Simulation, delay_ms: float) -> None:
        self._sim = sim
        self._delay_ms = delay_ms

    def begin(self, task: Task, turn: int) -> None:
        """Resume after the delay."""
        if self._delay_ms != math.inf:
            self._sim.after(self._delay_ms, task.wake, turn, of=task.of)


class Within(Wish):
    """Wait for other work, but only so long: its result, its error, or TimeoutError."""

    def __init__(self, sim: Simulation, timeout_ms: float, work: Coroutine[Any, Any, Any]) -> None:
        self._sim = sim
        self._timeout_ms = timeout_ms
        self._work = work
        self._child: Task | None = None

    def begin(self, task: Task, turn: int) -> None:
        """Run the work as a task of the same life; whichever comes first resumes."""

        def finished(value: Any, error: BaseException | None) -> None:
            task.wake(turn, value, error)

        def timed_out() -> None:
            if not child.ended and task.turn == turn and not task.ended:
                child.cancel()
                task.wake(turn, None, TimeoutError())

        self._child = child = Task(self._sim, self._work, task.of, finished)
        self._sim.after(self._timeout_ms, timed_out, of=task.of)
        child.start()

    def __await__(self) -> Generator[Wish, Any, Any]:
        try:
            return (yield self)
        finally:
            if self._child is not None:
                self._child.cancel()  # its parent is gone, or has what it wanted
            else:
                self._work.close()


class Reply:
    """The answer to one wait: call it with a value or an error, once; a later call is dropped."""

    __slots__ = ("_task", "_turn")

    def __init__(self, task: Task, turn: int) -> None:
        self._task = task
        self._turn = turn

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self._task.wake(self._turn, value, error)

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for this answer any longer."""
        return self._task.ended or self._task.turn != self._turn


class Asked(Wish):
    """Wait for a callback: ``ask(reply)`` is called at once, and ``reply`` may be called later."""

    def __init__(self, ask: Callable[[Reply], None]) -> None:
        self._ask = ask

    def begin(self, task: Task, turn: int) -> None:
        """Ask."""
        self._ask(Reply(task, turn))


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, such as every method of the store of dictionaries."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise AssertionError("it waited")
