"""Whether a certificate may stamp time, by a path to a pinned root: RFC 5280 section 6, as far as time stamping needs.

Promises: a path is at most MAX_PATH certificates long; every certificate of it was valid at the asked time; every
issuer may sign certificates; a critical extension that is not understood refuses the path. A pinned certificate is
trusted as it is, be it a root, an intermediate or the authority's own. Leaves out: revocation (the caller keeps
evidence and re-checks), name and policy constraints (critical ones refuse the path), SHA-1 signatures (refused).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

MAX_PATH = 6
"""Most certificates from the authority's own to the pinned one, both counted."""

MAX_CANDIDATES = 16
"""Most certificates a path is looked for among: a token may carry any number."""

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
_SOUND_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class PathError(Exception):
    """There is no acceptable path; the text says why, for people."""


@lru_cache(maxsize=128)
def load_certificate(der: bytes) -> x509.Certificate:
    """A certificate, its extensions parsed. Raises PathError when it is malformed."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        list(certificate.extensions)
        certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise PathError(f"a certificate is malformed: {type(error).__name__}") from error
    return certificate


def find_path(
    leaf: x509.Certificate,
    pinned: Iterable[x509.Certificate],
    others: Iterable[x509.Certificate],
    at: datetime,
) -> tuple[x509.Certificate, ...]:
    """The certificates from ``leaf`` to a pinned one, valid at ``at`` (aware). Raises PathError."""
    check_may_stamp(leaf)
    search = _Search(tuple(pinned), tuple(others)[:MAX_CANDIDATES], at)
    path = search.extend((leaf,))
    if path is None:
        raise PathError(search.reason)
    return path


def check_may_stamp(leaf: x509.Certificate) -> None:
    """RFC 3161 section 2.3: extended key usage is time stamping, alone and critical. Raises PathError."""
    try:
        eku = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        raise PathError("the signer's certificate has no extended key usage") from None
    if list(eku.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise PathError("the signer's certificate is not for time stamping only")
    if not eku.critical:
        raise PathError("the signer's extended key usage is not critical")
    usage = _key_usage(leaf)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise PathError("the signer's key usage does not allow signatures")


class _Search:
    """Depth first over issuers; remembers the most telling reason why nothing was found."""

    def __init__(
        self,
        pinned: tuple[x509.Certificate, ...],
        others: tuple[x509.Certificate, ...],
        at: datetime,
    ) -> None:
        self._pinned = pinned
        self._others = others
        self._at = at
        self._tries = MAX_PATH * MAX_CANDIDATES
        self.reason = "the signer's certificate leads to no pinned root"

    def extend(self, path: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...] | None:
        """This path to its end at a pinned certificate, or None."""
        last = path[-1]
        problem = _certificate_problem(last, self._at)
        if problem:
            self.reason = problem
            return None
        if last in self._pinned:
            return path
        if len(path) == MAX_PATH:
            return None
        for issuer in (*self._pinned, *self._others):
            if issuer.subject != last.issuer or issuer in path or not self._may_try():
                continue
            problem = _issuer_problem(issuer, last, below=len(path) - 1)
            if problem:
                self.reason = problem
                continue
            found = self.extend((*path, issuer))
            if found is not None:
                return found
        return None

    def _may_try(self) -> bool:
        # certificates that sign each other in circles must not cost more than a fixed number of signatures
        self._tries -= 1
        return self._tries >= 0


def _certificate_problem(certificate: x509.Certificate, at: datetime) -> str:
    """Why this certificate cannot be on a path at that time, or nothing."""
    name = certificate.subject.rfc4514_string()[:80]
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        return f"the certificate of {name} was not valid at the token's time"
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            return f"the certificate of {name} has a critical extension that is not understood"
    return ""


def _issuer_problem(issuer: x509.Certificate, issued: x509.Certificate, below: int) -> str:
    """Why ``issuer`` cannot have issued ``issued`` with ``below`` further CAs under it, or nothing."""
    name = issuer.subject.rfc4514_string()[:80]
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return f"{name} is not a certificate authority"
    if not constraints.ca:
        return f"{name} is not a certificate authority"
    if constraints.path_length is not None and constraints.path_length < below:
        return f"{name} may not have that many authorities below it"
    usage = _key_usage(issuer)
    if usage is not None and not usage.key_cert_sign:
        return f"{name} may not sign certificates"
    if not _may_issue_for_stamping(issuer):
        return f"{name} may not issue certificates for time stamping"
    return _signature_problem(issuer, issued, name)


def _signature_problem(issuer: x509.Certificate, issued: x509.Certificate, name: str) -> str:
    try:
        used = issued.signature_hash_algorithm
        if used is not None and not isinstance(used, _SOUND_HASHES):
            return f"a certificate issued by {name} is signed over a weak hash"
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return f"a certificate is not signed by {name} as it says"
    return ""


def _may_issue_for_stamping(issuer: x509.Certificate) -> bool:
    try:
        allowed = issuer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return (
        ExtendedKeyUsageOID.TIME_STAMPING in allowed
        or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in allowed
    )


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
