"""Who may sign with what, told from a client's certificate.

A rule names a client by the SHA-256 fingerprint of its certificate, or by its common name where the clients' CA can
be trusted to give each name once. Who matches no rule may do nothing. There is no rule that matches everybody.
"""

from __future__ import annotations

import re

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from outlast.core.errors import Refused

ALL_KEYS = "*"
MAX_CLIENTS = 1000

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class ClientRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One client: exactly one of ``fingerprint_sha256`` (64 hex digits, colons allowed) and ``common_name``.

    ``keys`` are the key names it may use and see; ``"*"`` is all of them.
    """

    name: str
    keys: tuple[str, ...]
    fingerprint_sha256: str = ""
    common_name: str = ""

    def allows(self, key_ref: str) -> bool:
        """Whether this client may use the key."""
        return key_ref in self.keys or ALL_KEYS in self.keys


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A client that has been recognised, and its certificate's fingerprint, for the audit."""

    rule: ClientRule
    fingerprint_sha256: str


class AccessList:
    """The rules, looked up by certificate. Raises Refused ``client-rule-invalid`` for rules that make no sense."""

    def __init__(self, rules: tuple[ClientRule, ...]) -> None:
        self._by_fingerprint: dict[str, ClientRule] = {}
        self._by_common_name: dict[str, ClientRule] = {}
        if len(rules) > MAX_CLIENTS:
            raise _invalid(f"more than {MAX_CLIENTS} clients")
        for rule in rules:
            self._add(rule)

    def identify(self, certificate: x509.Certificate) -> Client:
        """The client that holds the certificate. Raises Refused ``client-not-allowed``."""
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        rule = self._by_fingerprint.get(fingerprint)
        if rule is None:
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            # a subject with two common names could be meant as either: it is nobody
            rule = self._by_common_name.get(str(names[0].value)) if len(names) == 1 else None
        if rule is None:
            raise Refused(
                "client-not-allowed",
                "no rule names the holder of this client certificate",
                retry="reauth",
                hint=f"Add a client with fingerprint_sha256 {fingerprint} to the appliance.",
            )
        return Client(rule=rule, fingerprint_sha256=fingerprint)

    def _add(self, rule: ClientRule) -> None:
        fingerprint = rule.fingerprint_sha256.replace(":", "").lower()
        if bool(fingerprint) == bool(rule.common_name):
            raise _invalid(f"client {rule.name!r} needs one of fingerprint_sha256 and common_name")
        if fingerprint:
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise _invalid(f"client {rule.name!r}: not a SHA-256 fingerprint")
            known, key = self._by_fingerprint, fingerprint
        else:
            known, key = self._by_common_name, rule.common_name
        if key in known:
            raise _invalid(f"clients {known[key].name!r} and {rule.name!r} are the same")
        known[key] = rule


def _invalid(why: str) -> Refused:
    return Refused("client-rule-invalid", why, hint="Correct [[clients]] in the configuration.")
