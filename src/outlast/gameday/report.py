"""What a game day leaves behind: the table at its end, ``summary.json``, and three commands to look closer."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outlast import __version__
from outlast.gameday.day import Moments
from outlast.gameday.folder import Folder
from outlast.gameday.look import Look
from outlast.gameday.record import Record
from outlast.gameday.screen import story_line
from outlast.gameday.stage import outlast_command
from outlast.gameday.verdict import MAX_SHOWN, Checked, Verdict
from outlast.gameday.view import View


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; None where it did not come to that.

    ``failover_ms``: from the kill of the appliance to the first signature by the other provider, with what the next
    request let wait. ``failover_cost_ms``: the worst single request, from asking the dead provider to the signature by
    the other. ``site_back_ms``: from ``kill -9`` to taking work again. ``slowest_answer_ms``: what the client waited for
    an acknowledgement at most, the site's death included. ``slowest_signature_ms``: from there to the signature.
    ``settle_ms``: from the providers' return to the last owed timestamp.
    """

    failover_ms: int | None
    failover_cost_ms: int | None
    site_back_ms: int | None
    slowest_answer_ms: int
    slowest_signature_ms: int
    settle_ms: int | None
    run_ms: int
    unfinished_at_death: int
    """Requests that were accepted but not released when the site was killed."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json``."""

    ok: bool
    outlast: str
    verdict: Verdict
    timings: Timings
    refused: tuple[str, ...]
    asked_again: int
    log_entries: int
    data: str
    commands: tuple[tuple[str, str], ...]
    """What it shows, and the command."""
    story: tuple[str, ...]


def summarise(
    verdict: Verdict, view: View, moments: Moments, folder: Folder, look: Look | None
) -> Summary:
    """Everything that is told, in one struct."""
    ledger = view.ledger
    return Summary(
        ok=verdict.ok,
        outlast=__version__,
        verdict=verdict,
        timings=timings(view.record, view, moments),
        refused=tuple(f"{r.key}: {r.code}: {r.detail}" for r in ledger.refusals[:MAX_SHOWN]),
        asked_again=sum(promise.again for promise in ledger.promises),
        log_entries=view.record.size,
        data=str(folder.root),
        commands=commands(folder, look),
        story=tuple(story_line(h).plain for h in sorted(view.happenings, key=lambda h: h.at_s)),
    )


def timings(record: Record, view: View, moments: Moments) -> Timings:
    """What can be measured from the log, the ledger and the moments."""
    requests = [r for r in record.requests.values() if r.obtained]
    others = [
        r.obtained[0].at_ms
        for r in requests
        if r.obtained[0].provider != "appliance"
        and r.obtained[0].at_ms >= moments.appliance_killed_ms
    ]
    settled = moments.settled_ms and moments.restored_ms
    return Timings(
        failover_ms=min(others) - moments.appliance_killed_ms if others else None,
        failover_cost_ms=max((f.took_ms for f in record.failovers), default=None),
        site_back_ms=moments.site_back_ms - moments.site_killed_ms
        if moments.site_back_ms
        else None,
        slowest_answer_ms=max((p.acked_ms - p.asked_ms for p in view.ledger.promises), default=0),
        slowest_signature_ms=max(
            (r.obtained[0].at_ms - r.accepted_ms for r in requests), default=0
        ),
        settle_ms=moments.settled_ms - moments.restored_ms if settled else None,
        run_ms=(moments.settled_ms or view.clock.now_ms()) - moments.started_ms,
        unfinished_at_death=sum(
            r.accepted_ms <= moments.site_killed_ms < r.completed_ms
            for r in record.requests.values()
        ),
    )


def commands(folder: Folder, look: Look | None) -> tuple[tuple[str, str], ...]:
    """Three ways to look closer; they work as they stand, from the folder that the demo was run in."""
    data, outlast = _from_here(folder.root), _from_here(Path(outlast_command()[0]))
    found = [
        (
            "the whole log, recomputed from its files",
            f"{outlast} log fsck --log {data}/site/log --log-key {data}/pki/log-keys.txt"
            f" --since {data}/checkpoint",
        )
    ]
    if look is not None:
        found.insert(
            0,
            (
                "one document and all its evidence",
                f"{outlast} verify {data}/evidence/{look.name}.zip --trust {data}/pki/demo-ca.pem"
                f" --tsa-trust {data}/pki/tsa-roots.pem --log-key {data}/pki/log-keys.txt",
            ),
        )
        found.append(
            ("the same document, without any of our code", look.openssl.replace("DATA", data))
        )
    return tuple(found)


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def show(summary: Summary, view: View, console: Console) -> None:
    """The end of the demo."""
    if console.is_terminal:
        for happening in sorted(view.happenings, key=lambda h: h.at_s):
            console.print(story_line(happening))
    console.print()
    console.print(_table(summary))
    _complaints(summary, console)
    for what, command in summary.commands:
        console.print(f"\n[dim]# {what}[/dim]")
        console.print(Text(command), soft_wrap=True)
    console.print()
    verdict = summary.verdict
    if summary.ok:
        console.print(
            f"[bold green]Proven:[/] {verdict.accepted} accepted, {verdict.completed} signed and timestamped,"
            " 0 lost, 0 duplicated, everything verifies."
        )
    else:
        console.print(
            "[bold red]Not proven.[/] See above, and summary.json and output/ in the data folder."
        )


def _table(summary: Summary) -> Table:
    table = Table(title="What happened", title_justify="left", show_header=False, min_width=72)
    table.add_column()
    table.add_column()
    for name, text, is_good in _rows(summary):
        style = "" if is_good is None else "green" if is_good else "bold red"
        table.add_row(name, Text(text, style=style))
    return table


def _rows(summary: Summary) -> list[tuple[str, str, bool | None]]:
    v, t, c = summary.verdict, summary.timings, summary.verdict.checked
    return [
        ("accepted", f"{v.accepted} of {v.wanted}", v.accepted == v.wanted),
        ("signed", f"{v.signed}  ({_shares(v.signed_by)})", v.signed == v.wanted),
        ("failovers", f"{v.failovers} requests went on to another provider", None),
        ("under way at kill -9", f"{t.unfinished_at_death} requests; the site finished them when it was back", None),
        ("timestamps", _shares(v.stamped_by), None),
        ("timestamps owed", f"{v.owed}, settled {v.settled}", v.owed == v.settled),
        ("lost", str(len(v.lost)), not v.lost),
        ("duplicated", f"{len(v.duplicated)}  ({summary.asked_again} asked again with the same key)", not v.duplicated),
        ("time to fail over", f"{_ms(t.failover_ms)} after the kill; worst single request {_ms(t.failover_cost_ms)}", None),
        ("site back", f"{_ms(t.site_back_ms)} after kill -9", None),
        ("longest wait", f"{_ms(t.slowest_answer_ms)} for an acknowledgement, {_ms(t.slowest_signature_ms)} more for a signature", None),
        ("documents", f"{c.documents} of {v.accepted} verify", c.documents == v.accepted),
        ("evidence", f"{c.bundles} of {v.accepted} bundles verify", c.bundles == v.accepted),
        ("log", _log(c), c.log_ok),
    ]  # fmt: skip


def _log(checked: Checked) -> str:
    if not checked.log_ok:
        return checked.log_says
    text = f"{checked.log_entries} entries recomputed, root and signatures right"
    if checked.log_extends is not None:
        text += f"; extends the {checked.log_extends} published before kill -9"
    return text


def _complaints(summary: Summary, console: Console) -> None:
    v = summary.verdict
    for title, lines in (
        ("Lost", v.lost),
        ("Duplicated", v.duplicated),
        ("Faults", v.faults),
        ("Refused", summary.refused),
    ):
        if lines:
            console.print(f"[bold red]{title}:[/]")
            for line in lines[:MAX_SHOWN]:
                console.print(Text(f"  {line}"), soft_wrap=True)
            if len(lines) > MAX_SHOWN:
                console.print(f"  … and {len(lines) - MAX_SHOWN} more")


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _ms(value: int | None) -> str:
    if value is None:
        return "–"
    return f"{value} ms" if value < 10_000 else f"{value / 1000:.1f} s"
