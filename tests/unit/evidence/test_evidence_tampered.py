"""Bundles changed in one place at a time. First by somebody who can only edit the file; then by a forger who also
rewrites the log, with keys of his own under the log's name: what he cannot make consistent is found without pins."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest

from outlast.core.clock import SystemClock
from outlast.signing.evidence.verify import BundleVerdict, verify_bundle

Forge = Callable[[bytes], Any]


def judge(data: bytes, made: Any, *, pinned: bool = False) -> BundleVerdict:
    """The verdict; without pins unless asked for."""
    if not pinned:
        return verify_bundle(data, (), (), (), SystemClock().now_ms())
    tsa_roots = (made.tsa_root,) if made.tsa_root else ()
    return verify_bundle(data, (made.root,), tsa_roots, made.log_keys, SystemClock().now_ms())


def failed(verdict: BundleVerdict) -> set[str]:
    """The names of the checks that failed."""
    return {c.name for c in verdict.checks if c.outcome == "fail"}


def flipped(content: bytes, at: int) -> bytes:
    """The content with one bit of one byte changed."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def another_sha256() -> str:
    """A digest of nothing that is there."""
    return "ab" * 32


def edited(made: Any, forge: Forge, *, relist: bool) -> list[tuple[str, set[str]]]:
    """Flip a byte in the middle of each file in turn; what failed each time."""
    names = sorted(forge(made.data).files)
    found = []
    for name in names:
        forger = forge(made.data)
        content = forger.files[name]
        forger.files[name] = flipped(content, len(content) // 2)
        verdict = judge(forger.close(relog=False, relist=relist), made, pinned=True)
        found.append((name, failed(verdict)))
    return found


def test_no_file_can_be_edited(pades: Any, forge: Forge) -> None:
    """A flipped bit in any file is noticed by the manifest's digests."""
    for name, names in edited(pades, forge, relist=False):
        assert names == {"bundle"}, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pades", "stamped", "detached"])
def test_editing_the_manifest_too_does_not_help(
    kind: str, forge: Forge, request: pytest.FixtureRequest
) -> None:
    """A flipped bit with a manifest that lists it is noticed by what the log proves; but for the README, which
    proves nothing."""
    for name, names in edited(request.getfixturevalue(kind), forge, relist=True):
        assert bool(names) != (name == "README.txt"), (name, names)


def test_the_forger_himself_changes_nothing(pades: Any, forge: Forge) -> None:
    """A bundle put into another log, unchanged, fits together; pins reveal that it is another log."""
    data = forge(pades.data).close()
    assert judge(data, pades).verdict == "untrusted"
    assert failed(judge(data, pades, pinned=True)) == {"log-keys", "log-proofs"}


def value(f: Any) -> None:
    obtained = f.entry("signing.signature_obtained")["data"]
    changed = flipped(base64.b64decode(obtained["value"]), 20)
    obtained["value"] = base64.b64encode(changed).decode()


def pinned_bytes(f: Any) -> None:
    f.entry("signing.attempt_started")["data"]["pin"]["tbs_sha256"] = another_sha256()


def pinned_certificate(f: Any) -> None:
    f.entry("signing.attempt_started")["data"]["pin"]["fingerprint"] = another_sha256()
    f.manifest["request"]["signatures"][0]["certificate_sha256"] = another_sha256()


def enrolled_fingerprint(f: Any) -> None:
    f.entry("signing.key_enrolled")["data"]["binding"]["fingerprint"] = another_sha256()


def enrolled_provider(f: Any) -> None:
    f.entry("signing.key_enrolled")["data"]["binding"]["provider"] = "elsewhere"


def enrolled_too_late(f: Any) -> None:
    enrolled = f.entry("signing.key_enrolled")
    f.entries.remove(enrolled)
    f.entries.append(enrolled)
    f.renumber()


def expired(f: Any) -> None:
    f.entry("signing.key_enrolled")["data"]["binding"]["not_after_ms"] = 1


def other_validity(f: Any) -> None:
    f.entry("signing.key_enrolled")["data"]["binding"]["not_after_ms"] += 86_400_000


def other_file(f: Any) -> None:
    f.entry("signing.revision_signed")["data"]["revision"]["blob"]["sha256"] = another_sha256()
    f.manifest["request"]["file"]["sha256"] = another_sha256()


def other_document(f: Any) -> None:
    f.entry("signing.document_added")["data"]["blob"]["sha256"] = another_sha256()


def other_document_throughout(f: Any) -> None:
    other_document(f)
    f.entry("signing.requested")["data"]["document_sha256"] = another_sha256()
    f.manifest["request"]["document_sha256"] = another_sha256()


def other_length(f: Any) -> None:
    f.entry("signing.document_added")["data"]["blob"]["size"] -= 1


def no_attempt(f: Any) -> None:
    f.entries.remove(f.entry("signing.attempt_started"))
    f.renumber()


def missing_entry(f: Any) -> None:
    f.entries.remove(f.entry("signing.attempt_started"))


def two_signatures(f: Any) -> None:
    obtained = f.entry("signing.signature_obtained")
    f.entries.insert(f.entries.index(obtained) + 1, copy.deepcopy(obtained))
    f.renumber()


def other_provider(f: Any) -> None:
    f.entry("signing.signature_obtained")["data"]["provider"] = "elsewhere"


def two_attempts_at_once(f: Any) -> None:
    started = f.entry("signing.attempt_started")
    f.entries.insert(f.entries.index(started), copy.deepcopy(started))
    f.renumber()


def failed_attempt_that_never_was(f: Any) -> None:
    started = f.entry("signing.attempt_started")
    failure = copy.deepcopy(started)
    failure["type"] = "signing.attempt_failed"
    failure["data"] = {"place": 0, "attempt": 7, "provider": "local", "outcome": "unknown"}
    f.entries.insert(f.entries.index(started), failure)
    f.renumber()


def without_approval(f: Any) -> None:
    f.entry("signing.requested")["data"]["approval"] = True


def approved_by_himself(f: Any) -> None:
    requested = f.entry("signing.requested")
    requested["data"]["approval"] = True
    approved = copy.deepcopy(requested)
    approved["type"], approved["data"] = "signing.approved", {"by": requested["data"]["by"]}
    f.entries.insert(f.entries.index(requested) + 1, approved)
    f.renumber()


def no_number(f: Any) -> None:
    f.entry("signing.signature_obtained")["data"]["key_number"] = 0
    f.manifest["request"]["signatures"][0]["key_number"] = 0


def clock_back(f: Any) -> None:
    f.entry("signing.revision_signed")["hlc"] = f.entry("signing.requested")["hlc"]


def other_tenant(f: Any) -> None:
    f.entry("signing.document_added")["tenant"] = "somebody else"


def other_site(f: Any) -> None:
    f.entry("signing.revision_signed")["site"] = "elsewhere"


def stranger(f: Any) -> None:
    added = copy.deepcopy(f.entry("signing.document_added"))
    added["stream"] = "signing.document/another"
    f.entries.append(added)
    f.renumber()


def summary(f: Any) -> None:
    f.manifest["request"]["signatures"][0]["provider"] = "elsewhere"


def summary_of_another(f: Any) -> None:
    f.manifest["request"]["id"] = "01a2004e-7e5c-7000-9351-ee13456f1489"


def other_certificates(f: Any) -> None:
    f.files["certificates/1.pem"] = f.files["certificates/1.pem"].replace(b"M", b"N", 1)


def no_certificates(f: Any) -> None:
    f.files["certificates/1.pem"] = b""


def other_cms(f: Any) -> None:
    f.files["signatures/1.p7s"] += b"\0"


def appended(f: Any) -> None:
    import hashlib

    f.files["signed.pdf"] += b"\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"
    blob = f.entry("signing.revision_signed")["data"]["revision"]["blob"]
    blob["sha256"] = hashlib.sha256(f.files["signed.pdf"]).hexdigest()
    blob["size"] = len(f.files["signed.pdf"])
    f.manifest["request"]["file"] = {"sha256": blob["sha256"], "size": blob["size"]}


def signature_left_out(f: Any) -> None:
    f.manifest["signatures"] = []
    for name in ("certificates/1.pem", "signatures/1.p7s"):
        del f.files[name]


def not_an_event(f: Any) -> None:
    f.entry("signing.requested")["data"] = {"at_ms": "yesterday"}


def no_place(f: Any) -> None:
    f.entry("signing.revision_signed")["data"]["place"] = 7


FORGERIES: list[tuple[Callable[[Any], None], str]] = [
    (value, "value"),
    (pinned_bytes, "value"),
    (pinned_certificate, "certificate"),
    (enrolled_fingerprint, "certificate"),
    (enrolled_provider, "certificate"),
    (enrolled_too_late, "certificate"),
    (expired, "certificate"),
    (other_validity, "certificate"),
    (other_certificates, "certificate"),
    (no_certificates, "certificate"),
    (other_file, "signed-file"),
    (other_document, "attempts"),
    (other_document_throughout, "document"),
    (other_length, "document"),
    (no_attempt, "attempts"),
    (missing_entry, "history"),
    (clock_back, "history"),
    (other_tenant, "history"),
    (other_site, "history"),
    (stranger, "history"),
    (not_an_event, "history"),
    (no_place, "history"),
    (summary_of_another, "history"),
    (two_signatures, "attempts"),
    (other_provider, "attempts"),
    (two_attempts_at_once, "attempts"),
    (failed_attempt_that_never_was, "attempts"),
    (without_approval, "attempts"),
    (approved_by_himself, "attempts"),
    (no_number, "attempts"),
    (summary, "summary"),
    (other_cms, "cms"),
    (appended, "signed-file"),
    (signature_left_out, "signature"),
]


@pytest.mark.parametrize(("change", "check"), FORGERIES, ids=[c.__name__ for c, _ in FORGERIES])
def test_a_forger_with_a_log_of_his_own_is_caught(
    change: Callable[[Any], None], check: str, pades: Any, forge: Forge
) -> None:
    """One inconsistency at a time, proven by the forger's own log, is named by the check that it breaks."""
    forger = forge(pades.data)
    forger.renumber()
    change(forger)
    verdict = judge(forger.close(), pades)
    assert verdict.verdict == "invalid"
    assert check in failed(verdict), verdict.checks


def stamp_time(f: Any) -> None:
    f.entry("signing.revision_signed")["data"]["stamp"]["gen_time_ms"] += 1000
    stamp = f.manifest["request"]["signatures"][0]["timestamp"]
    stamp["time"] = stamp["time"].replace("T", "T", 1)


def stamp_token(f: Any) -> None:
    f.entry("signing.revision_signed")["data"]["stamp"]["token_sha256"] = another_sha256()


def stamp_response(f: Any) -> None:
    f.entry("signing.revision_signed")["data"]["stamp"]["blob"]["sha256"] = another_sha256()


def stamps_swapped(f: Any) -> None:
    """The second signature's timestamp, passed off as the first's."""
    for suffix in ("tsr", "tst"):
        f.files[f"timestamps/1.{suffix}"] = f.files[f"timestamps/2.{suffix}"]
    first, second = f.entry("signing.revision_signed"), f.entry("signing.revision_signed", 1)
    first["data"]["stamp"] = second["data"]["stamp"]


@pytest.mark.slow
@pytest.mark.parametrize("change", [stamp_time, stamp_token, stamp_response, stamps_swapped])
def test_a_timestamp_is_the_one_on_record(
    change: Callable[[Any], None], stamped: Any, forge: Forge
) -> None:
    """Another token, response or time than the log's is named, and so is a token over another value."""
    forger = forge(stamped.data)
    change(forger)
    assert "timestamp" in failed(judge(forger.close(), stamped))


@pytest.mark.slow
def test_a_document_timestamp_covers_the_document(settled: Any, forge: Forge) -> None:
    """Bytes changed before a document timestamp are outside no check."""
    forger = forge(settled.data)
    forger.files["signed.pdf"] = flipped(forger.files["signed.pdf"], 40)
    names = failed(judge(forger.close(), settled))
    assert {"document", "signed-file", "content", "timestamp", "verifier"} <= names


def test_a_key_disabled_meanwhile_stays_open(pades: Any, forge: Forge) -> None:
    """A key disabled just before the attempt is no forgery, and no clean record: it is left to a person."""
    forger = forge(pades.data)
    enrolled = forger.entry("signing.key_enrolled")
    disabled = copy.deepcopy(enrolled)
    disabled["type"], disabled["data"] = "signing.key_disabled", {"reason": "lost"}
    forger.entries.insert(forger.entries.index(enrolled) + 1, disabled)
    forger.renumber()
    verdict = judge(forger.close(), pades)
    assert verdict.verdict == "indeterminate"
    assert [c.name for c in verdict.checks if c.outcome == "unknown" and not c.about_trust] == [
        "certificate"
    ]


def test_an_event_of_a_newer_version_stays_open(pades: Any, forge: Forge) -> None:
    """What this version does not know is neither passed over nor called a forgery."""
    forger = forge(pades.data)
    newer = copy.deepcopy(forger.entry("signing.revision_signed"))
    newer["type"], newer["data"] = "signing.revision_sung", {}
    forger.entries.append(newer)
    forger.renumber()
    verdict = judge(forger.close(), pades)
    assert verdict.verdict == "indeterminate"
    assert "signing.revision_sung" in verdict.reason


def test_another_proof_does_not_do(pades: Any, forge: Forge) -> None:
    """An entry with another entry's proof is not in the log."""
    forger = forge(pades.data)
    first, second = forger.manifest["entries"][:2]
    forger.files[first["proof"]] = forger.files[second["proof"]]
    assert "log-proofs" in failed(judge(forger.close(relog=False), pades))
