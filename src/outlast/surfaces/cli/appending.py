"""Sends a file of JSON lines to a site, batch by batch, into its log.

Guarantees: lines are recorded in their order, each batch whole or not at all. A batch's idempotency key is made of the
journal, of its place, of all lines before it and of its own: the same command run again, after whatever interrupted it, sends the
same batches under the same keys, and the site answers those it has with what it answered then. So nothing is recorded
twice, for as long as the site remembers keys (48 hours); a batch of another file, or one that was cut elsewhere, is another
batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from outlast.core.errors import OutlastError, Refused
from outlast.surfaces.cli.connect import call_site
from outlast.surfaces.cli.invocation import Invocation
from outlast.surfaces.http.headers import NDJSON
from outlast.surfaces.http.wire import Accepted

if TYPE_CHECKING:
    from outlast.surfaces.cli.client import Api

PATH = "/v1/log/entries"
STDIN = "-"
MAX_BATCH_LINES = 1_000
MAX_BATCH_BYTES = 1024 * 1024
"""What a site takes in a request."""
PATIENCE_S = 60.0
"""How long a site that is started again meanwhile is waited for."""


class Batch(msgspec.Struct, frozen=True):
    """Lines from number ``first`` on, ``count`` of them, as they stand in the file; ``key`` is theirs alone."""

    first: int
    count: int
    body: bytes
    key: str


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did. ``lines`` of the file are in the log now, ``known`` of them were already; ``index`` and ``last``
    are the log indices of the first and the last (other entries may lie between), None where there is no line."""

    journal: str
    lines: int
    known: int
    batches: int
    index: int | None
    last: int | None


def append_file(
    cli: Invocation, source: str, journal: str, batch_lines: int, from_line: int
) -> None:
    """Append all lines and print what was done."""
    with ExitStack() as stack:
        file, size = _opened(stack, source)
        step = _progress(cli, stack, size)
        batches = cut(file, journal, batch_lines, from_line)
        done = call_site(cli, lambda api: send(api, batches, journal, source, step))
    cli.show(done, lambda console: console.print(_said(done), markup=False))


def cut(file: IO[bytes], journal: str, batch_lines: int, from_line: int) -> Iterator[Batch]:
    """The file's batches from line ``from_line`` (1: the first) on. Raises Refused ``entry-too-large``."""
    seen = sha256(journal.encode() + b"\n")
    lines: list[bytes] = []
    size = 0

    def batch(next_number: int) -> Batch:
        body = b"".join(lines)
        seen.update(body)
        first = next_number - len(lines)
        return Batch(first, len(lines), body, f"append/{first}/{seen.hexdigest()}")

    number = 1
    while line := file.readline(MAX_BATCH_BYTES + 1):
        if len(line) > MAX_BATCH_BYTES:
            raise Refused("entry-too-large", f"line {number} is longer than a whole batch")
        if number < from_line:
            seen.update(line)
        else:
            if lines and (len(lines) == batch_lines or size + len(line) > MAX_BATCH_BYTES):
                yield batch(number)
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        number += 1
    if any(line.strip() for line in lines):
        yield batch(number)


async def send(
    api: Api,
    batches: Iterator[Batch],
    journal: str,
    source: str,
    step: Callable[[int, int], None],
) -> Appended:
    """Send batch after batch. Raises what the site raises, with the line's number in the file."""
    api.patience_s = PATIENCE_S
    done = Appended(journal=journal, lines=0, known=0, batches=0, index=None, last=None)
    for batch in batches:
        try:
            accepted, replayed = await api.lines(
                PATH, batch.body, NDJSON, Accepted, key=batch.key, query={"journal": journal}
            )
        except OutlastError as error:
            raise _placed(error, batch, source) from error
        receipt = accepted.receipt
        done = Appended(
            journal=journal,
            lines=done.lines + receipt.count,
            known=done.known + (receipt.count if replayed else 0),
            batches=done.batches + 1,
            index=receipt.index if done.index is None else done.index,
            last=receipt.index + receipt.count - 1,
        )
        step(len(batch.body), receipt.count)
    return done


def _placed(error: OutlastError, batch: Batch, source: str) -> OutlastError:
    """The same error, with the place in the file and what to do there."""
    what, number = error.message, error.scope.removeprefix("line/")
    if number != error.scope and number.isdigit():
        line = batch.first + int(number) - 1
        what = f"line {line}: {error.message.partition(': ')[2]}"
    is_recorded = f"What is before line {batch.first} is recorded. " if batch.first > 1 else ""
    again = "Run the same command again: it goes on from there."
    if isinstance(error, Refused):
        again = f"Then {again[0].lower()}{again[1:]}"
    if source == STDIN:
        again = f"Feed the same lines again: it goes on from line {batch.first}."
    hint = is_recorded + (f"{error.hint} " if error.hint else "") + again
    return type(error)(
        error.code,
        what,
        hint=hint,
        retry=error.retry,
        retry_after_s=error.retry_after_s,
        scope=error.scope,
    )


def _opened(stack: ExitStack, source: str) -> tuple[IO[bytes], int | None]:
    """The input and its size in bytes, None where that is not known. Raises Refused ``file-unreadable``."""
    if source == STDIN:
        return sys.stdin.buffer, None
    path = Path(source)
    try:
        file = stack.enter_context(path.open("rb"))
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise Refused("file-unreadable", f"{path}: {error.strerror}") from error
    return file, size


def _progress(cli: Invocation, stack: ExitStack, size: int | None) -> Callable[[int, int], None]:
    """A bar on a terminal; called with the bytes and lines of each batch that is recorded."""
    bar = Progress(
        TextColumn("Appending"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeElapsedColumn(),
        console=cli.notes,
        transient=True,
        disable=cli.json or not cli.notes.is_terminal,
    )
    lines = 0
    task = bar.add_task("", total=size, lines=lines)
    stack.enter_context(bar)

    def step(bytes_: int, count: int) -> None:
        nonlocal lines
        lines += count
        bar.update(task, advance=bytes_, lines=lines)

    return step


def _said(done: Appended) -> str:
    if done.index is None:
        return "Nothing to append."
    text = f"{done.lines:,} lines are in the log, entries {done.index} to {done.last}"
    if done.known:
        text += f"; {done.known:,} of them were already"
    return text + "."
