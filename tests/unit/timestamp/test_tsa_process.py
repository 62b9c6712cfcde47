"""The local authority as a process: identity, restarts, wrong requests, wrong configuration."""

from __future__ import annotations

import http.client
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from outlast.core.clock import SystemClock
from outlast.core.errors import Corrupt, Refused
from outlast.core.pki import certificate_der
from outlast.core.rfc3161 import TsaRules, build_request, verify_response
from outlast.surfaces.tsa.identity import load_or_make_identity
from outlast.surfaces.tsa.server import read_tsa_config

CLOCK = SystemClock()
DIGEST = b"d" * 32
QUERY = {"Content-Type": "application/timestamp-query"}


@pytest.fixture
def start(tmp_path: pathlib.Path, process: Any, free_port: int) -> Callable[[], Any]:
    """Start the authority whose folder is ``tmp_path`` on ``free_port``."""
    config = tmp_path / "tsa.toml"
    config.write_text(f'directory = "identity"\nport = {free_port}\n')
    return lambda: process.start(
        [sys.executable, "-m", "outlast.surfaces.tsa", config], port=free_port
    )


def ask(
    port: int, body: bytes, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, str, bytes]:
    """Status, media type and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, "/", body, QUERY if headers is None else headers)
    response = connection.getresponse()
    answer = response.status, response.headers["Content-Type"], response.read()
    connection.close()
    return answer


def test_tokens_survive_a_kill(
    start: Callable[[], Any], process: Any, tmp_path: pathlib.Path, free_port: int
) -> None:
    """After SIGKILL and a restart the identity is the same and serial numbers are new."""
    serials = set()
    for _ in range(2):
        running = start()
        root = x509.load_pem_x509_certificate((tmp_path / "identity/root.pem").read_bytes())
        rules = TsaRules(roots=(certificate_der(root),))
        status, media_type, body = ask(free_port, build_request(DIGEST, 9))
        assert (status, media_type) == (200, "application/timestamp-reply")
        serials.add(verify_response(body, DIGEST, 9, rules, CLOCK.now_ms()).serial)
        process.kill(running)
    assert len(serials) == 2


def test_http(start: Callable[[], Any], process: Any, free_port: int) -> None:
    """What is no timestamp request is an HTTP error; what is one, but wrong, gets a reply that says so."""
    running = start()
    assert ask(free_port, b"", method="GET")[0] == 200
    assert ask(free_port, b"", method="PUT")[0] == 405
    assert ask(free_port, b"x", {"Content-Type": "text/plain"})[0] == 415
    assert ask(free_port, bytes(5000))[0] == 413
    status, media_type, body = ask(free_port, b"noise")
    assert (status, media_type) == (200, "application/timestamp-reply")
    with pytest.raises(Refused, match="bad_data_format"):
        verify_response(body, DIGEST, 9, TsaRules(roots=()), CLOCK.now_ms())
    assert process.stop(running) == 0


def test_the_key_is_private(tmp_path: pathlib.Path) -> None:
    """Only its owner can read the key, and it is made once."""
    first = load_or_make_identity(tmp_path / "id", "A", CLOCK)
    again = load_or_make_identity(tmp_path / "id", "A", CLOCK)
    assert first.certificate_der == again.certificate_der
    assert (tmp_path / "id/tsa.key.pem").stat().st_mode & 0o777 == 0o600
    assert b"not qualified" in first.certificate_der


def test_an_interrupted_start_begins_again(tmp_path: pathlib.Path) -> None:
    """A folder without its root, written last, is made anew."""
    first = load_or_make_identity(tmp_path, "A", CLOCK)
    (tmp_path / "root.pem").unlink()
    assert load_or_make_identity(tmp_path, "A", CLOCK).certificate_der != first.certificate_der


def test_a_damaged_identity_is_corrupt(tmp_path: pathlib.Path) -> None:
    """A key that does not fit, or noise, stops the start with advice."""
    load_or_make_identity(tmp_path / "a", "A", CLOCK)
    load_or_make_identity(tmp_path / "b", "B", CLOCK)
    for wrong in ((tmp_path / "b/tsa.key.pem").read_bytes(), b"noise"):
        (tmp_path / "a/tsa.key.pem").write_bytes(wrong)
        with pytest.raises(Corrupt) as caught:
            load_or_make_identity(tmp_path / "a", "A", CLOCK)
        assert caught.value.code == "tsa-identity-unreadable"
        assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "directory = 1", 'directory = "d"\nunknown = 1', "not toml", '\xff"']
)
def test_wrong_configuration(tmp_path: pathlib.Path, text: str) -> None:
    """Says what is wrong; an unknown name is never ignored."""
    path = tmp_path / "tsa.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused) as caught:
        read_tsa_config(path)
    assert caught.value.code == "config-invalid"


def test_wrong_use_ends_with_status_2(tmp_path: pathlib.Path, process: Any) -> None:
    """No argument, no file: a message and status 2."""
    for arguments in ([], [tmp_path / "missing.toml"]):
        running = process.start([sys.executable, "-m", "outlast.surfaces.tsa", *arguments])
        assert running.wait(20) == 2
        assert process.log(running)
