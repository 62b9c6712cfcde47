"""The signing appliance put together: its configuration file read once, its keystore opened.

The file is TOML, or JSON where its name ends so. Relative paths in it are relative to the file. Secrets are
never in it: it names files that hold them, which must not be readable by others.
"""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import msgspec

from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.errors import Refused
from outlast.ports.keys import Signer
from outlast.wiring.config import TelemetrySection

MAX_CONFIG_BYTES = 256 * 1024
MAX_SECRET_BYTES = 4096


class SoftwareKeys(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="software",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """Encrypted key files; see `adapters.keys.software`."""

    directory: Path
    passphrase_file: Path


class Pkcs11Keys(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="pkcs11",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """A PKCS#11 token; see `adapters.keys.pkcs11`."""

    module: Path
    token_label: str
    pin_file: Path
    sessions: int = 8


class ClientEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``[[clients]]``; see `surfaces.signer.access.ClientRule`."""

    name: str
    keys: tuple[str, ...]
    fingerprint_sha256: str = ""
    common_name: str = ""


class ApplianceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file. ``audit_file`` empty: audit lines go to standard error."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path
    clients: tuple[ClientEntry, ...]
    keystore: SoftwareKeys | Pkcs11Keys
    host: str = "127.0.0.1"
    port: int = 0
    audit_file: Path | None = None
    telemetry: TelemetrySection = TelemetrySection()


def read_appliance_config(path: Path) -> ApplianceConfig:
    """The file, checked. Raises Refused ``config-invalid`` with the place that is wrong; OSError where unreadable."""
    data = path.read_bytes()
    if len(data) > MAX_CONFIG_BYTES:
        raise _invalid(path, f"larger than {MAX_CONFIG_BYTES} bytes")
    base = path.resolve().parent

    def resolve(kind: type, value: object) -> object:
        if kind is Path and isinstance(value, str) and value:
            return base / value
        raise NotImplementedError

    try:
        raw = msgspec.json.decode(data) if path.suffix == ".json" else tomllib.loads(data.decode())
        config = msgspec.convert(raw, ApplianceConfig, dec_hook=resolve)
        telemetry = config.telemetry
        files = {
            name: str(base / value)
            for name in ("headers_file", "ca_file")
            if (value := getattr(telemetry, name))
        }
        return msgspec.structs.replace(
            config, telemetry=msgspec.structs.replace(telemetry, **files)
        )
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from error


def open_appliance_keystore(config: ApplianceConfig) -> Signer:
    """The signer that the configuration names. Raises Refused ``config-invalid``, OSError."""
    keystore = config.keystore
    if isinstance(keystore, SoftwareKeys):
        return SoftwareSigner(keystore.directory, read_secret(keystore.passphrase_file))
    # here, not above: python-pkcs11 is an extra that software keys do without
    from outlast.adapters.keys.pkcs11 import Pkcs11Signer

    return Pkcs11Signer(
        keystore.module,
        token_label=keystore.token_label,
        pin=read_secret(keystore.pin_file),
        sessions=keystore.sessions,
    )


def read_secret(path: Path) -> bytes:
    """A secret's file without its line end. Raises Refused ``secret-file-unsafe`` where others may read it."""
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Refused(
            "secret-file-unsafe",
            f"{path.name} may be read by others than its owner",
            hint=f"chmod 600 {path.name}",
        )
    with path.open("rb") as file:
        secret = file.read(MAX_SECRET_BYTES + 1)
    if len(secret) > MAX_SECRET_BYTES:
        raise Refused("secret-file-unsafe", f"{path.name} is too long to be a secret")
    return secret.rstrip(b"\r\n")


def _invalid(path: Path, why: str) -> Refused:
    return Refused("config-invalid", f"{path.name}: {why}", hint="See docs/howto/key-providers.md.")
