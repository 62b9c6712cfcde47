"""Signs files through a site's API: upload, request, wait, fetch; many at once, each for itself.

Guarantees: no file is written over unless that was asked for; an output appears whole or not at all; one file's
failure stops no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from outlast.core.clock import SystemClock
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.ids import Ids
from outlast.signing.api import PlaceAsk, SignatureAsk
from outlast.signing.classes import Format
from outlast.signing.views import RequestView
from outlast.surfaces.cli.client import Api
from outlast.surfaces.cli.connect import call_site
from outlast.surfaces.cli.invocation import Invocation, exit_status, refuse_overwriting
from outlast.surfaces.http.wire import Accepted, DocumentAdded

AT_ONCE = 16
"""Files on their way at the same time."""
LOOK_S = 20.0
"""How long one look at a request is held back by the site."""
FINAL = frozenset({"completed", "failed", "cancelled"})
_WAITING = {"signed": "signed, and its timestamp pending"}
PDF = "application/pdf"
OTHER = "application/octet-stream"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What every file of a call is signed with. ``wait_s``: seconds for each."""

    class_name: str
    key: str
    reason: str
    name: str
    location: str
    format: Format | None
    wait_s: float


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One file, and where its results go."""

    source: Path
    target: Path
    evidence: Path | None
    media_type: str


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one file. ``exit_status`` 0: it is signed and written to ``target``."""

    source: str
    target: str = ""
    evidence: str = ""
    request: str = ""
    provider: str = ""
    timestamp: str = ""
    timestamp_due: str = ""
    sha256: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""
    exit_status: int = 0


def plan(
    files: Sequence[Path], out: Path | None, evidence: Path | None, *, is_cms: bool, force: bool
) -> list[Errand]:
    """Where everything goes, checked before anything is sent. Raises Refused ``file-not-found``,
    ``out-missing``, ``out-not-a-folder``, ``same-target``, ``file-exists``, ``not-a-pdf``."""
    errands = [_errand(file, out, evidence, len(files) > 1, is_cms) for file in files]
    targets = [t for e in errands for t in (e.target, e.evidence) if t is not None]
    twice = {t for t in targets if targets.count(t) > 1}
    if twice:
        raise Refused(
            "same-target", f"{min(twice)} would be written twice", hint="Sign them one by one."
        )
    for errand in errands:
        if errand.target.resolve() == errand.source.resolve():
            raise Refused("same-target", f"{errand.source} would be replaced by its signed version")
        for target in (errand.target, errand.evidence):
            if target is not None:
                refuse_overwriting(target, force)
    return errands


def _errand(
    file: Path, out: Path | None, evidence: Path | None, is_many: bool, is_cms: bool
) -> Errand:
    if not file.is_file():
        raise Refused("file-not-found", f"{file} is not a file")
    with file.open("rb") as opened:
        is_pdf = b"%PDF-" in opened.read(1024)
    # what is only called a PDF goes to the site as one, and is refused there: a detached signature would be
    # another thing than was asked for
    media_type = PDF if is_pdf or (_is_called_pdf(file) and not is_cms) else OTHER
    if out is not None and _is_called_pdf(out) and (is_cms or media_type != PDF):
        raise Refused(
            "not-a-pdf",
            f"{out} would not be a PDF but a detached signature",
            hint="Call it .p7s.",
        )
    name = f"{file.name}.p7s" if is_cms or media_type != PDF else f"{file.stem}-signed.pdf"
    target = _place(out or file.parent, name, is_many or out is None)
    bundle = None
    if evidence is not None:
        bundle = _place(evidence, f"{file.stem}-evidence.zip", is_many)
    return Errand(source=file, target=target, evidence=bundle, media_type=media_type)


def _is_called_pdf(path: Path) -> bool:
    return path.suffix.lower() == ".pdf"


def _place(given: Path, name: str, must_be_folder: bool) -> Path:
    if given.is_dir():
        return given / name
    if must_be_folder or str(given).endswith("/"):
        try:
            given.mkdir(parents=True)
        except OSError as error:
            raise Refused(
                "out-not-a-folder",
                f"{given} must be a folder: {error.strerror}",
                hint="Name a folder for several files.",
            ) from error
        return given / name
    if not given.parent.is_dir():
        raise Refused("out-missing", f"there is no folder {given.parent}", hint="Make it first.")
    return given


def sign_all(cli: Invocation, errands: Sequence[Errand], wish: Wish) -> list[Result]:
    """Sign every file; one result for each, in their order."""

    async def work(api: Api) -> list[Result]:
        turns, ids = asyncio.Semaphore(AT_ONCE), Ids(SystemClock())
        api.patience_s = wish.wait_s
        with _progress(cli, len(errands)) as done:

            async def one(errand: Errand) -> Result:
                async with turns:
                    result = await _sign(api, errand, wish, ids.new())
                done()
                return result

            return list(await asyncio.gather(*map(one, errands)))

    return call_site(cli, work, make=True)


async def _sign(api: Api, errand: Errand, wish: Wish, nonce: str) -> Result:
    request_id = ""
    try:
        query = {"class": wish.class_name, "title": errand.source.name}
        added = await api.upload(
            "/v1/documents",
            errand.source,
            errand.media_type,
            DocumentAdded,
            key=f"{nonce}/document",
            query=query,
        )
        ask = SignatureAsk(
            document=added.id,
            class_name=wish.class_name,
            format=wish.format,
            signatures=(PlaceAsk(key=wish.key),),
            name=wish.name,
            reason=wish.reason,
            location=wish.location,
            title=errand.source.name,
        )
        accepted = await api.send(
            "POST", "/v1/signature-requests", ask, Accepted, key=f"{nonce}/request"
        )
        request_id = accepted.id
        view = await until_final(api, request_id, wish.wait_s)
        await fetch(api, view, errand.target, errand.evidence)
    except OutlastError as error:
        return Result(
            source=str(errand.source),
            request=request_id,
            code=error.code,
            message=error.message,
            hint=error.hint,
            exit_status=exit_status(error),
        )
    return _result(errand, view)


def _result(errand: Errand, view: RequestView) -> Result:
    signature = view.signatures[-1]
    return Result(
        source=str(errand.source),
        target=str(errand.target),
        evidence=str(errand.evidence or ""),
        request=view.id,
        provider=signature.provider,
        timestamp=signature.timestamp.state,
        timestamp_due=signature.timestamp.due or "",
        sha256=view.file.sha256 if view.file else "",
    )


async def until_final(api: Api, request_id: str, wait_s: float) -> RequestView:
    """The request once it is signed. Raises Refused ``request-failed``, ``awaiting-approval``; Unavailable
    ``not-signed-yet`` after ``wait_s`` seconds."""
    clock = SystemClock()
    end_s = clock.monotonic_s() + wait_s
    path = f"/v1/signature-requests/{request_id}"
    while True:
        left_s = max(0.0, min(LOOK_S, end_s - clock.monotonic_s()))
        view = await api.get(path, RequestView, wait_s=left_s)
        if view.status == "completed":
            return view
        if view.status in FINAL:
            raise Refused("request-failed", f"the request is {view.status}: {view.reason}")
        if view.status == "awaiting-approval":
            raise Refused(
                "awaiting-approval",
                "a second person must approve this request first",
                hint=f"`outlast requests approve {request_id}` by somebody else, then"
                f" `outlast requests fetch {request_id} -o FILE`.",
            )
        if clock.monotonic_s() >= end_s:
            raise Unavailable(
                "not-signed-yet",
                f"after {wait_s:g} s the request is {_WAITING.get(view.status, view.status)};"
                " a running site goes on with it",
                hint=f"`outlast requests fetch {request_id} -o FILE` gets it later.",
            )


async def fetch(api: Api, view: RequestView, target: Path | None, evidence: Path | None) -> None:
    """Write a request's signed file, and its evidence bundle."""
    path = f"/v1/signature-requests/{view.id}"
    if target is not None:
        _write_whole(target, await api.content(f"{path}/file"))
    if evidence is not None:
        _write_whole(evidence, await api.content(f"{path}/evidence"))


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # on a read-only volume even this fails
            temporary.unlink(missing_ok=True)
        raise Refused("file-unwritable", f"{path}: {error.strerror}") from error


class _progress:  # noqa: N801 - used as a function: `with _progress(...) as done`
    """A bar for several files, on a terminal; ``done()`` counts one."""

    def __init__(self, cli: Invocation, total: int) -> None:
        shown = total > 1 and not cli.json and cli.notes.is_terminal
        self._bar = Progress(
            TextColumn("Signing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=cli.notes,
            disable=not shown,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Callable[[], None]:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def print_results(cli: Invocation, results: Sequence[Result]) -> None:
    """One line for each file; leaves with the worst exit status."""
    hint = ""
    for result in results:
        if cli.json:
            cli.line(result)
        elif result.exit_status:
            _print_failed(cli.notes, result, said=hint)
            hint = result.hint
        else:
            _print_signed(cli.console, result)
    failed = [r for r in results if r.exit_status]
    if len(results) > 1 and not cli.json:
        cli.note(f"{len(results) - len(failed)} signed, {len(failed)} not.")
    if failed:
        raise typer.Exit(max(r.exit_status for r in failed))


def _print_signed(console: Console, result: Result) -> None:
    timestamp = {
        "present": ", timestamped",
        "owed": f", timestamp owed until {result.timestamp_due}",
        "pending": ", timestamp pending",
    }.get(result.timestamp, "")
    console.print(f"{result.target}  signed by {result.provider}{timestamp}", markup=False)
    if result.evidence:
        console.print(f"{result.evidence}  evidence", markup=False)


def _print_failed(console: Console, result: Result, said: str) -> None:
    # once accepted, the site signs it whatever became of this command: to say "not signed" would have it signed twice
    what = "accepted, but" if result.request else "not signed"
    console.print(f"{result.source}  {what}: {result.message} ({result.code})", markup=False)
    if result.hint and result.hint != said:
        console.print(f"  {result.hint}", markup=False)
    if result.request and result.request not in result.hint:
        console.print(f"  See `outlast requests show {result.request}`.", markup=False)
