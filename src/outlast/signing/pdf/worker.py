"""The process that parses untrusted PDFs: ``python -m outlast.signing.pdf.worker MEMORY_BYTES``.

It reads jobs from stdin and writes replies to stdout until stdin ends, so it never outlives the site by more than
one document. It gives up its own room first: address space, CPU seconds per document, no file above a bound, no
core dump. What kills it (SIGXCPU, a crash) is seen by the site as the end of the pipe.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import IO

import msgspec

from outlast.core.errors import OutlastError
from outlast.signing.pdf import wire
from outlast.signing.pdf.intake import examine
from outlast.signing.pdf.refusals import too_costly
from outlast.signing.pdf.scan import check_size

MAX_JOB_BYTES = 1024 * 1024 * 1024
"""Beyond any document limit; the limits of the job are what refuses."""


def main(memory_bytes: int, jobs: IO[bytes], replies: IO[bytes]) -> None:
    """Work until ``jobs`` ends."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    replies.write(wire.HELLO)
    replies.flush()
    while (body := wire.receive(jobs, MAX_JOB_BYTES)) is not None:
        job = msgspec.msgpack.decode(body, type=wire.Job)
        del body
        allow_cpu(job.cpu_s)
        wire.send(replies, answer(job))


def allow_cpu(seconds: int) -> None:
    """From now on, this process may use so many more CPU seconds before the kernel ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(
        resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + seconds + 1, hard)
    )


def answer(job: wire.Job) -> wire.Reply:
    """Examine one document; every way to fail becomes a reply."""
    try:
        facts, prepared = examine(_document(job), job.limits, job.options)
        return wire.Examined(facts, prepared.to_bytes())
    except OutlastError as refusal:
        return _declined(refusal)
    except MemoryError:
        return _declined(too_costly("it needs more memory than is allowed"))


def _declined(refusal: OutlastError) -> wire.Declined:
    return wire.Declined(refusal.code, refusal.message, refusal.hint)


def _document(job: wire.Job) -> bytes:
    if not job.path:
        return job.data
    path = Path(job.path)
    check_size(path.stat().st_size, job.limits)
    return path.read_bytes()


if __name__ == "__main__":
    # replies have stdout to themselves: a stray print must not break the framing
    _replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    main(int(sys.argv[1]), sys.stdin.buffer, _replies)
