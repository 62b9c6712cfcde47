"""The appliance's configuration file: TOML or JSON, paths relative to it, wrong ones named."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.adapters.keys.pkcs11 import Pkcs11Signer
from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.errors import Refused
from outlast.testing.servers import write_secret
from outlast.wiring.appliance import (
    MAX_CONFIG_BYTES,
    open_appliance_keystore,
    read_appliance_config,
    read_secret,
)

GOOD = """
port = 8443
certificate_file = "server.pem"
key_file = "/etc/outlast/server.key"
client_ca_file = "clients/ca.pem"

[keystore]
kind = "software"
directory = "keys"
passphrase_file = "passphrase"

[[clients]]
name = "site-a"
common_name = "site-a"
keys = ["contracts"]
"""


def write(folder: Path, text: str, name: str = "appliance.toml") -> Path:
    """A configuration file."""
    path = folder / name
    path.write_text(text)
    return path


def test_toml(tmp_path: Path) -> None:
    """Relative paths are relative to the file, absolute ones stay; the keystore is opened."""
    config = read_appliance_config(write(tmp_path, GOOD))
    assert config.certificate_file == tmp_path / "server.pem"
    assert config.key_file == Path("/etc/outlast/server.key")
    assert config.client_ca_file == tmp_path / "clients" / "ca.pem"
    assert (config.host, config.port, config.clients[0].keys) == (
        "127.0.0.1",
        8443,
        ("contracts",),
    )
    write_secret(tmp_path / "passphrase", b"secret\n")
    assert isinstance(open_appliance_keystore(config), SoftwareSigner)
    assert (tmp_path / "keys").is_dir()


def test_pkcs11_keystore(tmp_path: Path) -> None:
    """A token is named by module, label and a PIN file; nothing is loaded yet."""
    keystore = 'kind = "pkcs11"\nmodule = "/none.so"\ntoken_label = "t"\npin_file = "pin"\n'
    start, end = GOOD.index("kind ="), GOOD.index("[[clients]]")
    write_secret(tmp_path / "pin", b"1234")
    config = read_appliance_config(write(tmp_path, GOOD[:start] + keystore + GOOD[end:]))
    assert isinstance(open_appliance_keystore(config), Pkcs11Signer)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("port = 8443", "port = 'x'"), "$.port"),
        (("port = 8443", "prot = 8443"), "prot"),
        (('kind = "software"', 'kind = "paper"'), "$.keystore"),
        (("[keystore]", "[keystore"), "appliance.toml"),
        (('name = "site-a"', "name = 1"), "$.clients[0].name"),
        (('keys = ["contracts"]', ""), "keys"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """The error says where in the file it is."""
    with pytest.raises(Refused, match="config-invalid") as caught:
        read_appliance_config(write(tmp_path, GOOD.replace(*change)))
    assert expected in caught.value.message


def test_bounds(tmp_path: Path) -> None:
    """A file too large to be a configuration, bad JSON and bytes that are no text are refused."""
    for name, data in (
        ("large.toml", b"#" * (MAX_CONFIG_BYTES + 1)),
        ("bad.json", b"{"),
        ("binary.toml", b"\xff\xfe"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Refused, match="config-invalid"):
            read_appliance_config(tmp_path / name)


def test_secrets_are_private_files(tmp_path: Path) -> None:
    """A secret that others may read is refused, its line end is not part of it, and its size is bounded."""
    path = tmp_path / "secret"
    write_secret(path, b"value with spaces \r\n")
    assert read_secret(path) == b"value with spaces "
    path.chmod(0o640)
    with pytest.raises(Refused, match="secret-file-unsafe"):
        read_secret(path)
    write_secret(path, b"x" * 5000)
    with pytest.raises(Refused, match="secret-file-unsafe"):
        read_secret(path)
