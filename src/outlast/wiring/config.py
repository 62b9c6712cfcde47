"""Configuration: read once, at start, from one TOML file; everything has a default.

Secrets are never in the file: it names the files that hold them. Unknown names are refused, so that a typing error
does not silently mean the default.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

import msgspec

from outlast.core.errors import Refused
from outlast.signing.classes import DocumentClass

MAX_CONFIG_BYTES = 1024 * 1024
DEFAULT_PORT = 8470
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""What a node may be called: it must fit into the name of a session with the database (63 bytes)."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class SiteSection(_Section, frozen=True, kw_only=True):
    """The site itself. ``data`` is its folder; ``name`` is part of its log's origin; ``region`` is
    dash-separated from wide to narrow (``eu-de-1``). ``node`` names this process where several share the site."""

    name: str = "site"
    node: str = ""
    data: str = "outlast-data"
    region: str = ""


class HttpSection(_Section, frozen=True, kw_only=True):
    """Where the API listens. ``public_log`` serves tiles and checkpoint without authentication."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public_log: bool = False
    rate_per_s: float = 0.0
    burst: float = 200.0


class WorkSection(_Section, frozen=True, kw_only=True):
    """The worker. ``workers`` false: accept and log only. ``max_backlog`` jobs may wait before the site says
    it is overloaded. ``sandboxes`` is the number of processes that look into PDFs (0: two)."""

    enabled: bool = True
    concurrency: int = 64
    lease_ms: int = 15_000
    max_backlog: int = 100_000
    sandboxes: int = 0


class LogSection(_Section, frozen=True, kw_only=True):
    """The log. ``origin`` defaults to ``outlast.invalid/<site name>``."""

    origin: str = ""


class StoreSection(_Section, frozen=True, kw_only=True):
    """The database. ``dsn_file`` holds a PostgreSQL address, password included; without it, SQLite in the data
    folder. ``allow_unsafe``: use a server that does not sync to its disk (what was acknowledged may be lost)."""

    dsn_file: str = ""
    allow_unsafe: bool = False


class StorageSection(_Section, frozen=True, kw_only=True):
    """``min_free_mb``: with less room than this the site is read-only. ``write_copies``: so many blob stores must have
    a document before it is accepted; the others owe theirs. ``scrub_every_h``: how often all copies are read and
    compared (0: only when asked to), at ``scrub_mb_per_s`` at most."""

    min_free_mb: int = 256
    write_copies: int = 1
    scrub_every_h: int = 168
    scrub_mb_per_s: int = 20


class FilesystemBlobStore(_Section, frozen=True, kw_only=True, tag="filesystem", tag_field="kind"):
    """Documents, encrypted, in a folder of this machine; by default ``blobs`` in the data folder. One process uses
    it."""

    directory: str = ""


class S3BlobStore(_Section, frozen=True, kw_only=True, tag="s3", tag_field="kind"):
    """Documents, encrypted, in a bucket of an S3-compatible object store. ``virtual_hosted``: the endpoint names the
    bucket already."""

    endpoint: str
    bucket: str
    access_key_file: str
    secret_key_file: str
    region: str = "us-east-1"
    prefix: str = ""
    ca_file: str = ""
    virtual_hosted: bool = False
    timeout_s: int = 30


BlobStoreSection = FilesystemBlobStore | S3BlobStore


class SoftwareProvider(_Section, frozen=True, kw_only=True, tag="software", tag_field="kind"):
    """Keys in encrypted files. Paths default into the data folder; a missing passphrase file is made."""

    directory: str = ""
    passphrase_file: str = ""
    region: str = ""
    on_premises: bool = True


class Pkcs11Provider(_Section, frozen=True, kw_only=True, tag="pkcs11", tag_field="kind"):
    """An HSM through PKCS#11: the module's path, the token's label, a file with its PIN."""

    module: str
    token: str
    pin_file: str
    sessions: int = 8
    region: str = ""
    on_premises: bool = True


class TransitProvider(_Section, frozen=True, kw_only=True, tag="transit", tag_field="kind"):
    """Vault or OpenBao Transit."""

    url: str
    token_file: str
    mount: str = "transit"
    ca_file: str = ""
    region: str = ""
    on_premises: bool = False


class RemoteProvider(_Section, frozen=True, kw_only=True, tag="remote", tag_field="kind"):
    """An Outlast signing appliance, over mTLS."""

    url: str
    ca_file: str
    certificate_file: str
    key_file: str
    region: str = ""
    on_premises: bool = False


Provider = SoftwareProvider | Pkcs11Provider | TransitProvider | RemoteProvider


class AuthoritySection(_Section, frozen=True, kw_only=True):
    """A timestamp authority. ``roots_file``: PEM certificates that its tokens must chain to. ``qualified``
    says what its operator is; nothing here can check that."""

    url: str
    roots_file: str
    policies: tuple[str, ...] = ()
    qualified: bool = False
    region: str = ""
    max_skew_s: int = 60


class TelemetrySection(_Section, frozen=True, kw_only=True):
    """Traces and log lines. ``endpoint`` is a collector's URL for OTLP over HTTP, empty: no traces; ``headers_file``
    holds headers for it (``name: value``, one a line), ``ca_file`` the certificates that its own must chain to.
    ``sample_ratio`` of requests are traced; callers that send a ``traceparent`` decide for theirs unless
    ``callers_decide`` is false. ``log`` is how lines are written to standard error, from ``log_level`` on."""

    endpoint: str = ""
    headers_file: str = ""
    ca_file: str = ""
    sample_ratio: float = 0.1
    callers_decide: bool = True
    service_name: str = "outlast"
    log: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "warning"


class PolicySection(_Section, frozen=True, kw_only=True):
    """``files``: Cedar policies of the site's own, instead of the bundled ones."""

    files: tuple[str, ...] = ()


class Config(_Section, frozen=True, kw_only=True):
    """The whole file."""

    site: SiteSection = SiteSection()
    http: HttpSection = HttpSection()
    work: WorkSection = WorkSection()
    log: LogSection = LogSection()
    store: StoreSection = StoreSection()
    storage: StorageSection = StorageSection()
    telemetry: TelemetrySection = TelemetrySection()
    policy: PolicySection = PolicySection()
    blobs: dict[str, BlobStoreSection] = msgspec.field(
        default_factory=lambda: {"local": FilesystemBlobStore()}
    )
    """In order of preference."""
    providers: dict[str, Provider] = msgspec.field(
        default_factory=lambda: {"local": SoftwareProvider()}
    )
    authorities: dict[str, AuthoritySection] = msgspec.field(default_factory=dict)
    classes: dict[str, DocumentClass] = msgspec.field(
        default_factory=lambda: {"default": DocumentClass()}
    )

    @property
    def origin(self) -> str:
        """The log's name (C2SP tlog-checkpoint: schema-less URL)."""
        return self.log.origin or f"outlast.invalid/{self.site.name}"

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.site.data)


def load_config(path: Path) -> Config:
    """The configuration in a file; raises Refused ``config-invalid`` with the place of the mistake.

    Relative paths in it are relative to the file's own folder.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise _invalid(path, f"it has more than {MAX_CONFIG_BYTES} bytes")
        tables = tomllib.loads(raw.decode())
    except OSError as error:
        raise _invalid(path, error.strerror or "it cannot be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from error
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise _invalid(path, _named(tables, error)) from error
    return check(resolved(config, path.parent))


_KINDS: dict[str, tuple[object, ...]] = {
    table: tuple(kind.__struct_config__.tag for kind in get_args(union))
    for table, union in (("blobs", BlobStoreSection), ("providers", Provider))
}


def _named(tables: dict[str, object], error: msgspec.ValidationError) -> str:
    """What is wrong, with the name of the table that it is in (msgspec says ``[...]``), and the kinds there are."""
    for table in ("blobs", "providers", "authorities", "classes"):
        parts = tables.get(table)
        for name, part in parts.items() if isinstance(parts, dict) else ():
            try:
                msgspec.convert({table: {name: part}}, Config)
            except msgspec.ValidationError as own:
                text = str(own).replace("[...]", f".{name[:80]}", 1)
                is_kind = ".kind`" in text or "field `kind`" in text
                kinds = ", ".join(map(str, _KINDS.get(table, ())))
                return f"{text}; kind can be {kinds}" if is_kind and kinds else text
    return str(error)


def check(config: Config) -> Config:
    """The configuration, if its parts fit together; raises Refused ``config-invalid``."""
    for twice in sorted(config.providers.keys() & config.authorities.keys()):
        raise Refused(
            "config-invalid",
            f"{twice!r} is the name of a provider and of an authority",
            hint="Policy, residency and health go by these names: give each its own.",
        )
    if config.site.node and not NODE_NAME.fullmatch(config.site.node):
        raise Refused(
            "config-invalid",
            f"[site] node is {config.site.node!r}",
            hint="A node's name has 1 to 40 letters, digits, dots, dashes and underscores.",
        )
    _check_numbers(config)
    _check_blobs(config)
    if not 0 <= config.telemetry.sample_ratio <= 1:
        raise Refused("config-invalid", "telemetry.sample_ratio must be from 0 to 1")
    for name, document_class in config.classes.items():
        for kind, names, known in (
            ("provider", document_class.providers, config.providers),
            ("authority", document_class.authorities, config.authorities),
        ):
            for wanted in names:
                if wanted not in known:
                    raise Refused(
                        "config-invalid",
                        f"class {name!r} names {kind} {wanted!r}, which is not configured",
                    )
        if document_class.level == "B-T" and not config.authorities:
            raise Refused(
                "config-invalid",
                f"class {name!r} is of level B-T but no timestamp authority is configured",
                hint="Add an [authorities.NAME] table, or set level = 'B-B'.",
            )
    classes = {
        name: msgspec.structs.replace(document_class, name=name)
        for name, document_class in config.classes.items()
    }
    return msgspec.structs.replace(config, classes=classes)


_STORE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def _check_blobs(config: Config) -> None:
    """Stores that fit together: names that jobs and figures can carry, places that differ, TLS over a network."""
    places: dict[tuple[str, ...], str] = {}
    for name, store in config.blobs.items():
        if not _STORE_NAME.fullmatch(name):
            raise _wrong_store(name, "its name must be of a-z, 0-9 and -, at most 32 characters")
        if isinstance(store, FilesystemBlobStore):
            place: tuple[str, ...] = ("filesystem", store.directory or str(config.data / "blobs"))
        else:
            _check_s3(name, store)
            place = (store.endpoint.rstrip("/"), store.bucket, store.prefix.strip("/"))
        other = places.setdefault(place, name)
        if other != name:
            raise _wrong_store(name, f"it is the same place as {other!r}: that would be one copy")
    if not config.blobs:
        raise Refused(
            "config-invalid", "[blobs] names no store", hint="Leave it out for the default."
        )
    if not 1 <= config.storage.write_copies <= len(config.blobs):
        raise Refused(
            "config-invalid",
            f"storage.write_copies is {config.storage.write_copies}, and there are {len(config.blobs)} blob stores",
        )


def _check_s3(name: str, store: S3BlobStore) -> None:
    url = urlsplit(store.endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise _wrong_store(name, "its endpoint must be https://host[:port]")
    if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise _wrong_store(
            name, "plain http is for this machine only: signed requests can be replayed"
        )
    if url.username or url.password or url.query:
        raise _wrong_store(name, "secrets belong into files, not into its endpoint")
    if not store.bucket or not 1 <= store.timeout_s <= 3_600:
        raise _wrong_store(name, "it needs a bucket, and a timeout_s of 1 to 3600")


def _wrong_store(name: str, why: str) -> Refused:
    return Refused("config-invalid", f"blob store {name[:80]!r}: {why}")


_STORAGE_BOUNDS = {
    "min_free_mb": (0, 1 << 30),
    "scrub_every_h": (0, 10 * 365 * 24),
    "scrub_mb_per_s": (1, 100_000),
}
_WORK_BOUNDS = {
    "concurrency": (1, 4_096),
    "lease_ms": (1_000, 3_600_000),
    "max_backlog": (1, 10_000_000),
    "sandboxes": (0, 256),
}
_CLASS_BOUNDS = {
    "timestamp_patience_ms": (0, 3_600_000),
    "timestamp_deadline_s": (1, 10 * 365 * 86_400),
    "max_bytes": (1, 1 << 30),
    "max_pages": (1, 1_000_000),
    "reserve_bytes": (1_024, 256 * 1_024),
    "max_signatures": (1, 100),
}
"""Least and most; beyond these a site would start and then refuse, or never do, everything."""


def _check_numbers(config: Config) -> None:
    tables: list[tuple[str, msgspec.Struct, dict[str, tuple[int, int]]]] = [
        ("work", config.work, _WORK_BOUNDS),
        ("storage", config.storage, _STORAGE_BOUNDS),
        *((f"classes.{name}", c, _CLASS_BOUNDS) for name, c in config.classes.items()),
    ]
    for table, section, bounds in tables:
        defaults = {f.name: f.default for f in msgspec.structs.fields(section)}
        for field, (least, most) in bounds.items():
            value = getattr(section, field)
            if not least <= value <= most and value != defaults.get(field):
                raise Refused(
                    "config-invalid", f"{table}.{field} is {value}; it can be {least} to {most}"
                )


_PATHS = frozenset(
    {"data", "directory", "passphrase_file", "pin_file", "token_file", "ca_file",
     "certificate_file", "key_file", "access_key_file", "secret_key_file", "roots_file", "files", "dsn_file", "headers_file"}
)  # fmt: skip


def resolved(config: Config, base: Path) -> Config:
    """The configuration with relative paths made absolute from ``base``."""

    def path(value: str) -> str:
        return str((base / value).absolute()) if value else value

    def section(part: msgspec.Struct) -> msgspec.Struct:
        changes: dict[str, object] = {}
        for field in part.__struct_fields__:
            value = getattr(part, field)
            if field in _PATHS:
                changes[field] = path(value) if isinstance(value, str) else tuple(map(path, value))
        return msgspec.structs.replace(part, **changes)

    return msgspec.structs.replace(
        config,
        site=section(config.site),
        store=section(config.store),
        telemetry=section(config.telemetry),
        policy=section(config.policy),
        blobs={name: section(b) for name, b in config.blobs.items()},
        providers={name: section(p) for name, p in config.providers.items()},
        authorities={name: section(a) for name, a in config.authorities.items()},
    )


def _invalid(path: Path, why: str) -> Refused:
    return Refused(
        "config-invalid",
        f"{path.name}: {why}",
        hint="`outlast init` writes a commented file to start from.",
    )
