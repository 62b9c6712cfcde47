"""Signing requests for keys that a provider keeps, as OpenSSL reads them."""

from __future__ import annotations

import pathlib
import subprocess
from typing import get_args

import pytest

from outlast.core.asymmetric import KeyAlgorithm
from outlast.surfaces.cli.main import main


@pytest.mark.parametrize("algorithm", get_args(KeyAlgorithm))
def test_openssl_accepts_it(
    algorithm: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for a fresh key of each kind: signed by it, for the subject asked for."""
    monkeypatch.chdir(tmp_path)
    line = ["keys", "csr", "--provider", "local", "--key-ref", "k", "--make", algorithm]
    assert main([*line, "--subject", "CN=Acme seal,O=Acme,C=DE", "-o", "k.csr"]) == 0
    shown = subprocess.run(
        ["openssl", "req", "-in", "k.csr", "-verify", "-noout", "-subject", "-nameopt", "RFC2253"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "verify OK" in shown.stdout + shown.stderr
    assert "CN=Acme seal,O=Acme,C=DE" in shown.stdout


def test_wrong_wishes_are_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No such provider, key, algorithm or name: each is named, and no file is left behind."""
    monkeypatch.chdir(tmp_path)
    line = ["keys", "csr", "--key-ref", "k", "-o", "k.csr"]
    for extra, code in [
        (["--provider", "x", "--subject", "CN=a"], "unknown-provider"),
        (["--provider", "local", "--subject", "CN=a"], "key-not-found"),
        (["--provider", "local", "--subject", "CN=a", "--make", "rot13"], "algorithm-unknown"),
        (["--provider", "local", "--subject", "a name", "--make", "ed25519"], "subject-malformed"),
    ]:
        assert main([*line, *extra]) == 2
        assert code in capsys.readouterr().err
    assert not (tmp_path / "k.csr").exists()
