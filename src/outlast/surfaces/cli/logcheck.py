"""Checks whole logs: a folder's files, or somebody's log over HTTP. Recomputes everything, trusts only keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import Checkpoint, open_checkpoint
from outlast.core.log.fsck import FsckReport, LogReader, verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.note import MAX_NOTE_BYTES, Verifier
from outlast.core.log.signers import verifier_for
from outlast.core.log.tiles import Tile
from outlast.surfaces.cli.connect import TOKEN_VARIABLE, need_scheme
from outlast.surfaces.cli.endpoint import Endpoint, find_endpoint, tls_context
from outlast.surfaces.cli.invocation import EXIT_NEGATIVE, Invocation
from outlast.surfaces.cli.pins import MAX_PIN_FILE_BYTES, read_file, vkeys

PROGRESS_FROM = 50_000
"""Entries from which on a bar is shown."""
TIMEOUT_S = 30.0


def fsck(
    cli: Invocation, directory: Path, log_keys: Sequence[str], since: Path | None, *, is_copy: bool
) -> None:
    """Check a folder; leaves with status 1 where something is wrong."""
    verifiers = _verifiers(cli, log_keys, is_copy)
    _report(cli, _check(cli, TileArchive(directory), verifiers, since), bool(log_keys))


def verify_over_http(
    cli: Invocation, log_keys: Sequence[str], since: Path | None, save: Path | None, public: str
) -> None:
    """Check a log over HTTP; ``save`` keeps its checkpoint when all is well."""
    is_elsewhere = bool(cli.url or public)
    verifiers = _verifiers(cli, log_keys, is_elsewhere)
    with _http(cli, public) as http:
        reader = _HttpLog(http)
        report = _check(cli, reader, verifiers, since)
        if reader.trouble is not None:  # what could not be read is neither sound nor damaged
            raise reader.trouble
        if report.ok and save is not None and reader.checkpoint is not None:
            save.write_bytes(reader.checkpoint)
    _report(cli, report, bool(log_keys))


def _verifiers(cli: Invocation, given: Sequence[str], is_elsewhere: bool) -> list[Verifier]:
    """Those of the pinned keys; without any, the site's own, where this is its own log."""
    if given:
        return [verifier_for(vkey) for one in given for vkey in vkeys(one)]
    if is_elsewhere:
        raise Refused(
            "log-key-missing",
            "a log that is not this site's can only be checked with its key",
            hint="--log-key takes what the site's operator gave you.",
        )
    from outlast.wiring.secrets import read_secret

    return list(LogKey.decode(read_secret(cli.config.data / "secrets" / "log.key")).verifiers)


def _check(
    cli: Invocation, log: LogReader, verifiers: Sequence[Verifier], since: Path | None
) -> FsckReport:
    trusted: Checkpoint | None = None
    if since is not None:
        trusted = open_checkpoint(read_file(since, MAX_PIN_FILE_BYTES), verifiers).checkpoint
    need = len({v.key.key_id for v in verifiers})
    with _progress(cli) as progress:
        return verify_log(log, verifiers, need=need, trusted=trusted, progress=progress)


@contextmanager
def _progress(cli: Invocation) -> Iterator[Callable[[int, int], None]]:
    bar = Progress(
        TextColumn("Checking"),
        BarColumn(),
        MofNCompleteColumn(),
        console=cli.notes,
        transient=True,
        disable=cli.json or not cli.notes.is_terminal,
    )
    task = bar.add_task("", visible=False)
    with bar:
        yield lambda done, total: bar.update(
            task, completed=done, total=total, visible=total >= PROGRESS_FROM
        )


def _report(cli: Invocation, report: FsckReport, is_pinned: bool) -> None:
    cli.show(report, lambda console: _print(console, report, is_pinned))
    if not report.ok:
        raise typer.Exit(EXIT_NEGATIVE)


def _print(console: Console, report: FsckReport, is_pinned: bool) -> None:
    state = "[bold green]sound[/]" if report.ok else "[bold red]DAMAGED[/]"
    console.print(f"Log {escape(report.origin or '(unknown)')}: {state}")
    console.print(
        f"  {report.entries} of {report.size} entries, {report.bundles} bundles, {report.tiles} tiles"
        " recomputed from the entries' bytes"
    )
    console.print(f"  root {report.root.hex()}")
    signed = ", ".join(f"{v.name} ({v.key_id:08x})" for v in report.verified) or "nobody known"
    console.print(
        f"  signed by {escape(signed)}" + ("" if is_pinned else " [the site's own word]"),
        markup=False,
    )
    if report.consistent_with is not None:
        console.print(f"  extends the checkpoint of {report.consistent_with} entries kept earlier")
    for finding in report.findings:
        console.print(
            f"  [red]✗[/] {escape(finding.where)}: {escape(finding.message)} ({finding.code})"
        )
    if report.faults > len(report.findings):
        console.print(f"  and {report.faults - len(report.findings)} more")


@contextmanager
def _http(cli: Invocation, public: str) -> Iterator[httpx2.Client]:
    """A client whose paths are below ``/log/``."""
    if cli.url or public:
        need_scheme(cli.url or public)
    endpoint = Endpoint(url=public.removesuffix("/").removesuffix("/log"), token="", pid=0)
    if cli.url:
        endpoint = Endpoint(url=cli.url, token=os.environ.get(TOKEN_VARIABLE, ""), pid=0)
    elif not public:
        found = find_endpoint(cli.config.data)
        if found is None:
            raise Unavailable(
                "site-not-running",
                f"no site is running over {cli.config.data}",
                hint="`outlast log fsck` checks its files without it.",
            )
        endpoint = found
    headers = {"authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
    with httpx2.Client(
        base_url=endpoint.url,
        headers=headers,
        timeout=TIMEOUT_S,
        transport=httpx2.HTTPTransport(uds=endpoint.uds) if endpoint.uds else None,
        verify=tls_context(endpoint),
        trust_env=False,
    ) as http:
        yield http


class _HttpLog:
    """A log read from a site's ``/log``. ``checkpoint`` is the one that was read, ``trouble`` what kept us from reading:
    after it, nothing more is asked."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http
        self.checkpoint: bytes | None = None
        self.trouble: OutlastError | None = None

    def read_checkpoint(self) -> bytes | None:
        """See `LogReader`."""
        self.checkpoint = self._get("/log/checkpoint")[: MAX_NOTE_BYTES + 1]
        return self.checkpoint

    def read_tile(self, tile: Tile) -> bytes:
        """See `LogReader`."""
        return self._get(f"/log/{tile.path}")

    def _get(self, path: str) -> bytes:
        if self.trouble is not None:
            raise self.trouble
        try:
            response = self._http.get(path)
        except httpx2.HTTPError as error:
            self.trouble = Unavailable(
                "log-unreachable",
                f"{self._http.base_url}{path}: {type(error).__name__}",
                hint="Is the site running? `outlast log fsck` checks the files of this machine's without it.",
            )
            raise self.trouble from error
        if response.status_code == 404:
            raise Refused("tile-not-found", f"the site has no {path}")
        if not response.is_success:
            self.trouble = _refusal(path, response)
            raise self.trouble
        return response.content


def _refusal(path: str, response: httpx2.Response) -> OutlastError:
    return Unavailable(
        "log-unreachable",
        f"{path}: status {response.status_code}",
        hint=f"Is the log public, or {TOKEN_VARIABLE} set to a token with log:read?",
    )
