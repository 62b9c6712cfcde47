"""Finds out what a file is, has it verified, and says the result in one form for all kinds. Touches no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from outlast.core.clock import SystemClock, iso
from outlast.core.errors import OutlastError, Refused
from outlast.core.log.proof import SUFFIX as PROOF_SUFFIX
from outlast.signing.evidence.verdicts import BundleVerdict, Check, Findings, Outcome
from outlast.signing.pdf.verdicts import (
    NO_ROOT,
    PdfVerdict,
    SignatureVerdict,
    TimestampVerdict,
    Verdict,
)
from outlast.surfaces.cli.invocation import EXIT_NEGATIVE, Invocation
from outlast.surfaces.cli.pins import Pins, load_pins, read_file

__all__ = ["Pins", "Report", "load_pins", "run", "verify_file"]

Kind = Literal["pdf", "detached-signature", "evidence-bundle", "log-proof", "unknown"]

SUFFIXES = (".pdf", ".p7s", ".zip", PROOF_SUFFIX)
"""What is looked at in a folder."""
CMS_SUFFIX = ".p7s"
_SNIFFED_BYTES = 1024


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file's verdict, and what it rests on. ``pdf`` or ``bundle`` has the particulars."""

    path: str
    kind: Kind
    verdict: Verdict
    reason: str = ""
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    pdf: PdfVerdict | None = None
    bundle: BundleVerdict | None = None

    def is_negative(self, is_strict: bool) -> bool:
        """Whether the exit status must say so. What a bundle leaves open is on record there (a timestamp that is
        owed); a signature that cannot be judged is none."""
        if is_strict or self.verdict == "invalid":
            return self.verdict != "valid"
        return self.verdict == "indeterminate" and self.kind != "evidence-bundle"


def run(
    cli: Invocation,
    paths: Sequence[Path],
    pins: Pins,
    *,
    content: Path | None,
    entry: Path | None,
    is_strict: bool,
    is_verbose: bool,
) -> None:
    """Verify all and print; leaves with status 1 where one is not good."""
    files = list(_files(paths))
    if not files:
        raise Refused("nothing-to-verify", f"no {', '.join(SUFFIXES)} in {paths[0]}")
    negative = 0
    for file in files:
        report = verify_file(file, pins, content, entry)
        negative += report.is_negative(is_strict)
        if cli.json:
            cli.line(report)
        else:
            _print(cli.console, report, is_verbose or len(files) == 1)
    if len(files) > 1:
        cli.note(f"{len(files)} files, {negative} not good.")
    if negative:
        raise typer.Exit(EXIT_NEGATIVE)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (f for f in sorted(path.rglob("*")) if f.suffix in SUFFIXES and f.is_file())
        elif path.exists():
            yield path
        else:
            raise Refused("file-not-found", f"there is no file {path}")


def verify_file(path: Path, pins: Pins, content: Path | None, entry: Path | None) -> Report:
    """The verdict on one file, whatever it is."""
    try:
        data = read_file(path)
        head = data[:_SNIFFED_BYTES]
        if head.startswith(b"PK"):
            return _bundle(path, data, pins)
        if head.startswith(b"c2sp.org/tlog-proof@"):
            return _proof(path, data, pins, entry)
        if b"%PDF-" in head:
            return _pdf(path, data, pins)
        if head.startswith(b"\x30") or b"-----BEGIN" in head:
            return _detached(path, data, pins, content)
    except OutlastError as error:
        return Report(path=str(path), kind="unknown", verdict="invalid", reason=error.message)
    reason = "it is neither a PDF nor a signature, an evidence bundle or a log proof"
    return Report(path=str(path), kind="unknown", verdict="invalid", reason=reason)


def _bundle(path: Path, data: bytes, pins: Pins) -> Report:
    from outlast.signing.evidence.verify import verify_bundle

    verdict = verify_bundle(data, pins.roots, pins.tsa_roots, pins.log_keys, SystemClock().now_ms())
    return Report(
        path=str(path),
        kind="evidence-bundle",
        verdict=verdict.verdict,
        reason=verdict.reason,
        checks=verdict.checks,
        notes=verdict.notes,
        bundle=verdict,
    )


def _pdf(path: Path, data: bytes, pins: Pins) -> Report:
    from outlast.signing.pdf.verify import verify_pdf

    roots = tuple(dict.fromkeys((*pins.roots, *pins.tsa_roots)))
    pdf = verify_pdf(data, roots, SystemClock().now_ms())
    found = Findings()
    for number, signature in enumerate(pdf.signatures, 1):
        _judge(found, f"signature {number}", signature, pins)
    if not pdf.signatures:
        found.add("signatures", False, pdf.reason)
    elif pdf.signatures[-1].coverage == "revision" and pdf.signatures[-1].changes == "none":
        message = "bytes follow the last signature that belong to no revision of the document"
        found.add("appended", "unknown", message)
    verdict, reason = found.conclusion()
    return Report(
        path=str(path),
        kind="pdf",
        verdict=verdict if pdf.signatures else "indeterminate",
        reason=reason,
        checks=tuple(found.checks),
        pdf=pdf,
    )


def _detached(path: Path, data: bytes, pins: Pins, content: Path | None) -> Report:
    from outlast.signing.pdf.verify import verify_cms

    found = Findings()
    source = content
    if source is None and path.suffix == CMS_SUFFIX:
        source = path.with_suffix("")
    if source is None or not source.is_file():
        found.add("content", "unknown", "what it signs is not here; name it with --content")
    else:
        roots = tuple(dict.fromkeys((*pins.roots, *pins.tsa_roots)))
        signed = verify_cms(read_file(source), _der(data), roots, SystemClock().now_ms())
        _judge(found, source.name, signed, pins)
    verdict, reason = found.conclusion()
    return Report(
        path=str(path),
        kind="detached-signature",
        verdict=verdict,
        reason=reason,
        checks=tuple(found.checks),
    )


def _der(data: bytes) -> bytes:
    if not data.startswith(b"-----"):
        return data
    from asn1crypto import pem

    try:
        _, _, encoded = pem.unarmor(data)
    except ValueError as error:
        raise Refused("cms-malformed", "the PEM around the signature cannot be read") from error
    return bytes(encoded)


def _judge(found: Findings, subject: str, signature: SignatureVerdict, pins: Pins) -> None:
    """A signature's verdict as checks."""
    is_stamp = signature.kind == "document-timestamp"
    what = "document timestamp" if is_stamp else "signature"
    if signature.verdict == "indeterminate":
        found.add("intact", "unknown", signature.reason, subject=subject)
        return
    if signature.verdict == "invalid":
        found.add("intact", False, signature.reason, subject=subject)
        return
    reach = {
        "file": "covers the whole file",
        "revision": f"covers its revision of the document; added later: {signature.changes}",
    }.get(signature.coverage, "covers a part")
    found.add("intact", True, f"the {what} is intact and {reach}", subject=subject)
    signer = signature.signer
    name, issuer = (signer.subject, signer.issuer) if signer else ("nobody", "nobody")
    own = pins.tsa_roots if is_stamp else pins.roots
    why = "" if signature.trusted else signature.reason
    _judge_trust(found, "signer", subject, why, f"{name}, issued by {issuer}", own)
    if signature.claimed_time_ms is not None and not is_stamp:
        claimed = iso(signature.claimed_time_ms)
        found.add("time", True, f"the signer says {claimed}", subject=subject)
    if signature.timestamp is not None and not is_stamp:
        _judge_stamp(found, subject, signature.timestamp, pins)


def _judge_stamp(found: Findings, subject: str, stamp: TimestampVerdict, pins: Pins) -> None:
    if stamp.verdict in ("invalid", "indeterminate"):
        outcome: Outcome = "fail" if stamp.verdict == "invalid" else "unknown"
        found.add("timestamp", outcome, f"the timestamp: {stamp.reason}", subject=subject)
        return
    when = iso(stamp.time_ms) if stamp.time_ms is not None else "an unreadable time"
    found.add("timestamp", True, f"an authority attests {when}", subject=subject)
    name = stamp.authority.subject if stamp.authority else "nobody"
    why = "" if stamp.verdict == "valid" else stamp.reason
    _judge_trust(found, "timestamp-trust", subject, why, name, pins.tsa_roots)


def _judge_trust(
    found: Findings, name: str, subject: str, why: str, who: str, roots: Sequence[bytes]
) -> None:
    """``why`` it is not trusted; empty where it is."""
    if not roots:
        option = "--tsa-trust" if name == "timestamp-trust" else "--trust"
        message = f"{who}: no root is pinned ({option})"
        found.add(name, "unknown", message, subject=subject, about_trust=True)
        return
    if why == NO_ROOT:
        why = "leads to no pinned root"
    message = f"{who}: {why or 'leads to a pinned root'}"
    found.add(name, not why, message, subject=subject, about_trust=True)


def _proof(path: Path, data: bytes, pins: Pins, entry: Path | None) -> Report:
    from outlast.surfaces.cli.proofs import check_proof

    found = Findings()
    check_proof(path, data, entry, pins.log_keys, found)
    verdict, reason = found.conclusion()
    return Report(
        path=str(path),
        kind="log-proof",
        verdict=verdict,
        reason=reason,
        checks=tuple(found.checks),
    )


_WORDS: dict[Verdict, str] = {
    "valid": "[bold green]valid[/]",
    "untrusted": "[bold yellow]intact, but nothing pinned says by whom[/]",
    "indeterminate": "[bold yellow]cannot be judged[/]",
    "invalid": "[bold red]NOT VALID[/]",
}
_MARKS: dict[Outcome, str] = {
    "pass": "[green]✓[/]",
    "fail": "[red]✗[/]",
    "unknown": "[yellow]?[/]",
}


def _print(console: Console, report: Report, is_full: bool) -> None:
    console.print(f"{escape(report.path)}: {_WORDS[report.verdict]}")
    shown = report.checks
    if not is_full:
        telling = ("fail", "unknown") if report.verdict == "indeterminate" else ("fail",)
        shown = tuple(c for c in report.checks if c.outcome in telling)
    for check in shown:
        subject = f"{check.subject}: " if check.subject else ""
        console.print(f"  {_MARKS[check.outcome]} {escape(subject + check.message)}")
    if not report.checks and report.reason:
        console.print(f"  {_MARKS['fail']} {escape(report.reason)}")
    if is_full:
        for note in report.notes:
            console.print(f"  - {escape(note)}")
