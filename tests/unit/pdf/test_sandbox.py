"""The worker processes: same answers, bounded cost, no trace left."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import anyio
import pytest

from outlast.core.errors import Refused, Unavailable
from outlast.signing.pdf.facts import MIB, Limits, PrepareOptions
from outlast.signing.pdf.intake import examine
from outlast.signing.sandbox import Bounds, PdfSandbox
from outlast.testing.pdfs import build_pdf, flate, page_objects, plain_pdf

PLAIN = plain_pdf()


def _children() -> set[int]:
    """Process ids of this process's living children."""
    listed = pathlib.Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for one in listed for pid in one.read_text().split()}


def _slow() -> bytes:
    """A good document that takes the parser many seconds: fifty thousand form fields."""
    fields = b" ".join(b"%d 0 R" % (6 + i) for i in range(50_000))
    objects = page_objects(catalog=b"/AcroForm << /Fields [%s] >>" % fields)
    objects.update({6 + i: b"<< /FT /Tx /T (%d) >>" % i for i in range(50_000)})
    return build_pdf(objects)


SLOW_LIMITS = Limits(max_form_fields=100_000)


@pytest.mark.anyio
async def test_answers_are_those_of_the_pure_functions(tmp_path: pathlib.Path) -> None:
    """Facts and revision from bytes and from a file; refusals with code, message and hint."""
    options = PrepareOptions(field_name="Here")
    path = tmp_path / "document.pdf"
    path.write_bytes(PLAIN)
    expected = examine(PLAIN, Limits(), options)
    async with PdfSandbox(Bounds(workers=1)) as sandbox:
        assert await sandbox.examine(PLAIN, Limits(), options) == expected
        assert await sandbox.examine(path, Limits(), options) == expected
        for source in (b"no", path):
            with pytest.raises(Refused) as refusal:
                await sandbox.examine(source, Limits(max_bytes=10))
            assert refusal.value.code == ("not-a-pdf" if source == b"no" else "pdf-too-large")
            assert refusal.value.hint


@pytest.mark.anyio
async def test_processes_are_reused_bounded_in_number_and_ended() -> None:
    """Twenty documents at once: two processes, the same two afterwards, none left."""
    before = _children()
    async with PdfSandbox(Bounds(workers=2)) as sandbox:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(sandbox.examine, PLAIN, Limits())
        first = _children() - before
        await sandbox.examine(PLAIN, Limits())
        assert 1 <= len(first) <= 2
        assert _children() - before == first
    assert _children() == before


@pytest.mark.anyio
async def test_a_document_that_takes_too_long_is_given_up() -> None:
    """On the wall clock, long after its CPU time: the machine is busy, so it may be tried again; by another process."""
    async with PdfSandbox(Bounds(workers=1, timeout_s=0.5)) as sandbox:
        await sandbox.warm()
        slow = _slow()
        start = time.monotonic()
        with pytest.raises(Unavailable, match="pdf-worker-unavailable"):
            await sandbox.examine(slow, SLOW_LIMITS)
        assert time.monotonic() - start < 3
        facts, _ = await sandbox.examine(PLAIN, Limits())
        assert facts.pages == 1


@pytest.mark.anyio
async def test_cpu_time_is_bounded_by_the_kernel() -> None:
    """The process that used up its seconds ends by itself."""
    async with PdfSandbox(Bounds(workers=1, cpu_s=0)) as sandbox:
        with pytest.raises(Refused, match="pdf-too-costly"):
            await sandbox.examine(_slow(), SLOW_LIMITS)


@pytest.mark.anyio
async def test_memory_is_bounded() -> None:
    """A document that would need more than the process may have is refused, and the site lives on."""
    large = build_pdf({**page_objects(), 6: flate(os.urandom(40 * MIB))})
    async with PdfSandbox(Bounds(workers=1, memory_bytes=100 * MIB)) as sandbox:
        with pytest.raises(Refused, match="pdf-too-costly"):
            await sandbox.examine(large, Limits())
        facts, _ = await sandbox.examine(PLAIN, Limits())
        assert facts.pages == 1


@pytest.mark.anyio
async def test_a_crash_is_a_refusal_and_an_idle_death_is_nothing() -> None:
    """Killed while at work: refused. Killed while idle: the next document gets a new process."""
    before = _children()
    async with PdfSandbox(Bounds(workers=1)) as sandbox:
        await sandbox.warm()
        (worker,) = _children() - before
        os.kill(worker, signal.SIGKILL)
        await anyio.sleep(0.1)
        facts, _ = await sandbox.examine(PLAIN, Limits())
        assert facts.pages == 1
        (worker,) = _children() - before

        async def crash() -> None:
            await anyio.sleep(0.3)
            os.kill(worker, signal.SIGSEGV)

        async with anyio.create_task_group() as group:
            group.start_soon(crash)
            with pytest.raises(Refused, match="pdf-too-costly"):
                await sandbox.examine(_slow(), SLOW_LIMITS)


@pytest.mark.anyio
async def test_cancelling_ends_the_process_at_once() -> None:
    """A caller who goes away leaves nothing running."""
    before = _children()
    async with PdfSandbox(Bounds(workers=1)) as sandbox:
        await sandbox.warm()
        slow = _slow()
        with anyio.move_on_after(0.3):
            await sandbox.examine(slow, SLOW_LIMITS)
        assert _children() == before


@pytest.mark.anyio
async def test_a_closed_or_unstartable_sandbox_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a refusal: the document may be fine."""
    sandbox = PdfSandbox(Bounds(workers=1))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="pdf-worker-unavailable"):
        await sandbox.examine(PLAIN, Limits())
    await sandbox.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await sandbox.examine(PLAIN, Limits())


UNDER_UVLOOP = """
import sys, anyio
from outlast.signing.sandbox import PdfSandbox
from outlast.signing.pdf.facts import Limits
from outlast.testing.pdfs import plain_pdf

async def main():
    async with PdfSandbox() as sandbox:
        await sandbox.warm()
        facts, prepared = await sandbox.examine(plain_pdf(2), Limits())
        assert facts.pages == 2

anyio.run(main, backend_options={"use_uvloop": True})
assert not [name for name in sys.modules if name.startswith("pyhanko")]
"""


def test_it_works_under_uvloop_without_warnings_and_without_the_parser() -> None:
    """As in the site: uvloop, every warning an error, and pyHanko never imported in the parent."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNDER_UVLOOP],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
