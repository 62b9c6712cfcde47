"""`[blobs]` tables that would be obeyed, and should not."""

from __future__ import annotations

import pathlib

import pytest

from outlast.adapters.blob import filesystem
from outlast.core.errors import Refused
from outlast.wiring.blobs import are_shared, check_stores, open_stores
from outlast.wiring.config import (
    Config,
    FilesystemBlobStore,
    S3BlobStore,
    SiteSection,
    StorageSection,
    check,
    load_config,
)


def s3(**given: object) -> S3BlobStore:
    """A table that is right but for what is given."""
    fields: dict[str, object] = {
        "endpoint": "https://s3.example",
        "bucket": "outlast",
        "access_key_file": "a",
        "secret_key_file": "b",
        **given,
    }
    return S3BlobStore(**fields)  # type: ignore[arg-type]  # as given


@pytest.mark.parametrize(
    ("blobs", "why"),
    [
        ({"a": s3(endpoint="http://s3.example")}, "plain http"),
        ({"a": s3(endpoint="s3.example")}, "endpoint"),
        ({"a": s3(endpoint="https://key:secret@s3.example")}, "secrets belong into files"),
        ({"a": s3(bucket="")}, "bucket"),
        ({"a": s3(timeout_s=0)}, "timeout_s"),
        ({"Bad Name": s3()}, "its name"),
        ({"a": s3(), "b": s3(endpoint="https://s3.example/", prefix="/")}, "one copy"),
        ({"a": FilesystemBlobStore(), "b": FilesystemBlobStore()}, "one copy"),
        ({}, "no store"),
    ],
)
def test_mistakes_are_found(blobs: dict[str, S3BlobStore | FilesystemBlobStore], why: str) -> None:
    """Each is refused with what is wrong, and no secret is repeated."""
    with pytest.raises(Refused, match=why) as refused:
        check(Config(blobs=dict(blobs)))
    assert "key:secret" not in str(refused.value)


def test_no_more_copies_than_stores() -> None:
    """Two copies in one store would never be reached."""
    with pytest.raises(Refused, match="write_copies"):
        check(Config(storage=StorageSection(write_copies=2)))
    check(Config(storage=StorageSection(write_copies=2), blobs={"a": s3(), "b": s3(prefix="b")}))


def test_secret_and_ca_files_are_opened_by_the_check(tmp_path: pathlib.Path) -> None:
    """`config check` finds a missing secret, one that others can read, and a CA file that is none."""
    (tmp_path / "outlast.toml").write_text(
        '[blobs.a]\nkind = "s3"\nendpoint = "https://s3.example"\nbucket = "b"\n'
        'access_key_file = "access"\nsecret_key_file = "secret"\nca_file = "ca.pem"\n'
    )
    config = load_config(tmp_path / "outlast.toml")
    with pytest.raises(Refused, match="ca_file"):
        check_stores(config)
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(Refused, match="PEM"):
        check_stores(config)
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(Refused, match=f"secret-unreadable: {tmp_path}/"):
        check_stores(config)
    for name in ("access", "secret"):
        (tmp_path / name).write_text("hidden")
    with pytest.raises(Refused, match="secret-exposed") as refused:
        check_stores(config)
    assert "hidden" not in str(refused.value)


def test_documents_are_shared_in_object_stores_only() -> None:
    """One folder among the stores, and another node would not find what is only there."""
    assert not are_shared(Config())
    assert are_shared(Config(blobs={"a": s3()}))
    assert not are_shared(Config(blobs={"a": s3(), "local": FilesystemBlobStore()}))


def test_a_folder_with_documents_is_not_forgotten(tmp_path: pathlib.Path) -> None:
    """A configuration that leaves it out is refused with what to do."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "small.db").touch()
    site = SiteSection(data=str(tmp_path))
    with pytest.raises(Refused, match="blob-store-dropped"):
        check_stores(Config(site=site, blobs={"a": s3()}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[blobs.here]\nkind = "filesystem"\n[blobs.main]\nkind = "gcs"', "$.blobs.main.kind`; kind can be filesystem, s3"),
        ('[blobs.main]\nkind = "s3"', "`endpoint` - at `$.blobs.main`"),
        ('[providers.hsm]\nkind = "x"', "$.providers.hsm.kind`; kind can be software, pkcs11, transit, remote"),
        ('[providers.hsm]\non_premises = true', "kind can be software"),
        ("[authorities.t]\nurll = 1", "$.authorities.t`"),
        ("[site]\nnames = 1", "`names`"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_table_names_the_table(tmp_path: pathlib.Path, text: str, told: str) -> None:
    """Which of several stores or providers is wrong, and what kinds there are."""
    path = tmp_path / "outlast.toml"
    path.write_text(text)
    with pytest.raises(Refused) as refused:
        load_config(path)
    assert told in refused.value.message


def test_a_folder_in_use_is_a_site_in_use(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process over the same data folder is told so, not about a directory that it never named."""

    def taken(path: pathlib.Path) -> None:
        raise Refused("storage-in-use", f"another process uses {path.parent}")

    monkeypatch.setattr(filesystem, "Owner", taken)
    config = check(Config(site=SiteSection(data=str(tmp_path))))
    with pytest.raises(Refused, match=r"site-in-use.*another process"), open_stores(config):
        pass
