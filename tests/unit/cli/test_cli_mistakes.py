"""What people get wrong is told apart, before anything is asked or judged."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.store.postgres.failure import invalid_address, translate
from outlast.surfaces.cli.main import main

CONFIG = '[store]\ndsn_file = "dsn"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: a site that is to be kept in PostgreSQL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTLAST_TOKEN", "ol_x")
    (tmp_path / "outlast.toml").write_text(CONFIG)
    return tmp_path


def test_the_file_with_the_databases_address_is_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing, readable by others, empty or with something else in it; asyncpg would take defaults for the last two."""
    dsn = folder / "dsn"
    assert main(["config", "check"]) == 2
    assert "secret-unreadable" in capsys.readouterr().err
    dsn.write_text("postgresql://u:test-only@h/x")
    dsn.chmod(0o644)
    assert main(["config", "check"]) == 2
    assert "secret-exposed" in capsys.readouterr().err
    dsn.chmod(0o600)
    assert main(["config", "check"]) == 0
    assert "PostgreSQL, as" in capsys.readouterr().out
    for wrong in ("", "postgres:/test-only", "mysql://u:test-only@h/x"):
        dsn.write_text(wrong)
        assert main(["config", "check"]) == 2
        told = capsys.readouterr().err
        assert "store-dsn-invalid" in told
        assert "test-only" not in told


def test_a_log_that_cannot_be_asked_is_not_called_damaged(
    folder: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """No verdict, and the status of what may be tried again."""
    key = "outlast.invalid/site+886f5b38+ASpM5u3hg5tT9F4JQS1wYg2GpCu/kdPOd5YjCWDjSGnb"
    where = f"http://127.0.0.1:{free_port}"
    assert main(["--url", where, "log", "verify", "--log-key", key]) == 3
    said = capsys.readouterr()
    assert "DAMAGED" not in said.out
    assert f"{where}/log/checkpoint" in said.err.replace("\n", "")


def test_an_address_without_a_scheme_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot have been done, so nothing is said of that."""
    for line in (["status"], ["log", "verify", "--log-key", "x"]):
        main(["--url", "127.0.0.1:8470", *line])
        assert "answer-lost" not in capsys.readouterr().err
    assert main(["--url", "127.0.0.1:8470", "status"]) == 2


def test_no_root_certificates_is_not_a_typing_mistake() -> None:
    """What asyncpg says of them is told in our words; of the rest nothing is repeated."""
    known = invalid_address('root certificate file "~/.postgresql/root.crt" does not exist')
    assert "sslrootcert" in known.hint
    other = invalid_address("test-only is no port")
    assert "test-only" not in f"{other} {other.hint}"


def test_why_there_is_no_connection_is_told() -> None:
    """The system's words, where there are any."""
    refused = translate(ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"))
    assert "('127.0.0.1', 1)" in refused.message
    assert translate(TimeoutError()).message.endswith("TimeoutError")


def test_a_log_that_ends_before_the_first_entry_asked_for_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing printed could as well be a log that was not found."""
    key = LogKey.generate("log.test/x")
    (folder / "log").mkdir()
    empty = sha256(b"").digest()
    TileArchive(folder / "log").publish(sign_checkpoint(key.name, 0, empty, key.signers, time_s=1))
    assert main(["log", "show", "--log", str(folder / "log"), "--from", "7"]) == 0
    assert "has 0 entries, none from 7 on" in capsys.readouterr().err
