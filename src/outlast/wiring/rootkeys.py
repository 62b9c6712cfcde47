"""The two keys that a site is lost or forged without: the root key of its bodies, and its log's.

Made once, before the database is. Where there is a database and one of them is missing, nothing is made in its
place: under a fresh root key nothing stored could be read, and under a fresh log key nobody who pinned the old one
could verify the log. A log's key carries its origin; a configuration that has since chosen another is refused.
"""

from __future__ import annotations

from pathlib import Path

from outlast.core.envelope import Entropy, LocalRootKey, RootKeys
from outlast.core.errors import Refused
from outlast.core.log.logkey import LogKey
from outlast.wiring.config import Config
from outlast.wiring.secrets import read_secret, secret_or_new, write_secret

ROOT_KEY_ID = "root-1"


def database(config: Config) -> Path:
    """The site's database."""
    return config.data / "site.db"


def load_root_keys(config: Config, entropy: Entropy) -> RootKeys:
    """The root key; raises Refused ``root-key-lost``."""
    path = config.data / "secrets" / "root.key"
    if _is_lost(config, path):
        raise Refused(
            "root-key-lost",
            "root.key is missing, and everything that this site has stored is encrypted under it",
            hint="Restore secrets/root.key from the backup that the database is of.",
        )
    secret = secret_or_new(path)
    return RootKeys(LocalRootKey(ROOT_KEY_ID, bytes.fromhex(secret.decode()), entropy))


def load_log_key(config: Config) -> LogKey:
    """The log's keys; raises Refused ``log-key-lost``, ``log-origin-changed``."""
    path = config.data / "secrets" / "log.key"
    if _is_lost(config, path):
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


def _is_lost(config: Config, path: Path) -> bool:
    return database(config).exists() and not path.exists()
