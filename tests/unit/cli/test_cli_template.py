"""`outlast init`'s file and the configuration's structs are kept in step."""

from __future__ import annotations

import pathlib
import re
import tomllib
from typing import Any

import msgspec
import pytest

from outlast.signing.classes import DocumentClass
from outlast.surfaces.cli.init import template
from outlast.surfaces.cli.main import main
from outlast.wiring.config import (
    AuthoritySection,
    Config,
    FilesystemBlobStore,
    Pkcs11Provider,
    RemoteProvider,
    S3BlobStore,
    SoftwareProvider,
    TransitProvider,
    load_config,
)

PROVIDERS = (SoftwareProvider, Pkcs11Provider, TransitProvider, RemoteProvider)


def uncommented() -> str:
    """The template with every option switched on: an option's line has no space behind its #."""
    return re.sub(r"^#(?=[a-z\[])", "", template(), flags=re.MULTILINE)


def plain(struct: msgspec.Struct) -> Any:
    """A struct as a file would have it."""
    return msgspec.json.decode(msgspec.json.encode(struct))


def parsed() -> dict[str, Any]:
    """That, parsed."""
    return tomllib.loads(uncommented())


def test_as_written_it_changes_nothing(tmp_path: pathlib.Path) -> None:
    """The file with all options commented out is the same configuration as none."""
    path = tmp_path / "outlast.toml"
    path.write_text(template())
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert load_config(path) == load_config(empty)


def test_every_option_can_be_switched_on(tmp_path: pathlib.Path) -> None:
    """All commented options at once are a configuration that loads."""
    path = tmp_path / "outlast.toml"
    path.write_text(uncommented())
    config = load_config(path)
    assert set(config.providers) == {"local", "hsm", "vault", "appliance"}


@pytest.mark.parametrize(
    "section", ["site", "http", "work", "log", "store", "storage", "telemetry", "policy"]
)
def test_sections_are_complete_and_show_their_defaults(section: str) -> None:
    """Each section names every option there is, with the value it has anyway."""
    shown = parsed()[section]
    assert shown == plain(getattr(Config(), section))


def test_classes_are_complete_and_show_their_defaults() -> None:
    """So does the class; its name is its table's."""
    shown = parsed()["classes"]["default"]
    expected = plain(DocumentClass())
    del expected["name"]
    assert shown == expected


def test_providers_and_authorities_are_complete() -> None:
    """Every kind of provider is there with every option, and so is an authority."""
    shown = {p["kind"]: set(p) - {"kind"} for p in parsed()["providers"].values()}
    for provider in PROVIDERS:
        assert shown.pop(str(provider.__struct_config__.tag)) == set(provider.__struct_fields__)
    assert not shown
    stores = {b["kind"]: set(b) - {"kind"} for b in parsed()["blobs"].values()}
    for store in (FilesystemBlobStore, S3BlobStore):
        assert stores.pop(str(store.__struct_config__.tag)) == set(store.__struct_fields__)
    assert not stores
    (authority,) = parsed()["authorities"].values()
    assert set(authority) == set(AuthoritySection.__struct_fields__)


def test_sections_are_all_there() -> None:
    """No table of the configuration is missing."""
    assert set(parsed()) == set(Config.__struct_fields__)


def test_it_is_written_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there stays, unless --force; a folder gets the usual name."""
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    (tmp_path / "outlast.toml").write_text("# mine\n")
    assert main(["init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "outlast.toml").read_text() == "# mine\n"
    assert main(["init", "--force"]) == 0
    (tmp_path / "sub").mkdir()
    assert main(["init", "sub"]) == 0
    assert (tmp_path / "sub" / "outlast.toml").read_text() == template()
