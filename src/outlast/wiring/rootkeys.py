"""The two keys that a site is lost or forged without: the root key of its bodies, and its log's.

Made once, before the database is. Where there is a database and one of them is missing, nothing is made in its
place: under a fresh root key nothing stored could be read, and under a fresh log key nobody who pinned the old one
could verify the log. A log's key carries its origin; a configuration that has since chosen another is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from outlast.core.envelope import Entropy, LocalRootKey, RootKeys
from outlast.core.errors import Refused
from outlast.core.links import LinkKey
from outlast.core.log.logkey import LogKey
from outlast.wiring.config import Config
from outlast.wiring.secrets import read_secret, secret_or_new, write_secret

ROOT_KEY_ID = "root-1"


def database(config: Config) -> Path:
    """The site's database."""
    return config.data / "site.db"


def load_root_keys(config: Config, entropy: Entropy, begun: bool) -> RootKeys:
    """The root key, made if the site has not ``begun``; raises Refused ``root-key-lost``."""
    path = _root_key(config)
    if begun and not path.exists():
        raise Refused(
            "root-key-lost",
            "root.key is missing, and everything that this site has stored is encrypted under it",
            hint="Restore secrets/root.key from the backup that the database is of; for a further node, copy secrets/"
            " from one of the others.",
        )
    secret = secret_or_new(path)
    return RootKeys(LocalRootKey(ROOT_KEY_ID, bytes.fromhex(secret.decode()), entropy))


def root_key_digest(config: Config) -> str:
    """Tells one root key from another and says nothing about it: it has 256 random bits."""
    return hashlib.sha256(b"outlast root key\n" + read_secret(_root_key(config))).hexdigest()


def load_link_key(config: Config) -> LinkKey:
    """The key that short-lived links are signed with, derived from the root key: the same on every node."""
    return LinkKey(bytes.fromhex(read_secret(_root_key(config)).decode()))


def load_log_key(config: Config, begun: bool) -> LogKey:
    """The log's keys, made if the site has not ``begun``; raises Refused ``log-key-lost``, ``log-origin-changed``."""
    path = config.data / "secrets" / "log.key"
    if begun and not path.exists():
        raise Refused(
            "log-key-lost",
            "log.key is missing, and readers of this site's log have pinned its public half",
            hint="Restore secrets/log.key from the backup that the database is of.",
        )
    if not path.exists():
        write_secret(path, LogKey.generate(config.origin).encode())
    key = LogKey.decode(read_secret(path))
    if key.name != config.origin:
        raise Refused(
            "log-origin-changed",
            f"this site's log is called {key.name!r}, the configuration says {config.origin!r}",
            hint=f'Set [log] origin = "{key.name}" (or the site\'s name back): a log keeps its name for ever.',
        )
    return key


def _root_key(config: Config) -> Path:
    return config.data / "secrets" / "root.key"
