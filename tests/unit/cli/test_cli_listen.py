"""Where `outlast serve` listens, and where it refuses to."""

from __future__ import annotations

import pathlib
import socket
from typing import Any

import pytest

from outlast.core.errors import OutlastError
from outlast.surfaces.cli.running import Listen, check, listen


def wish(**changes: Any) -> Listen:
    """The default, changed."""
    given = {
        "host": "127.0.0.1",
        "port": 0,
        "uds": None,
        "tls_cert": None,
        "tls_key": None,
        "is_plain_allowed": False,
    }
    return Listen(**{**given, **changes})


def code(work: Any) -> str:
    """The code of the error."""
    with pytest.raises(OutlastError) as error:
        work()
    return error.value.code


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_this_machine_needs_no_tls(host: str) -> None:
    """Loopback addresses may be plain."""
    check(wish(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "site.example"])
def test_other_machines_need_tls_or_a_word(host: str, tmp_path: pathlib.Path) -> None:
    """What others can reach is refused without TLS, unless somebody says that a proxy speaks it."""
    assert code(lambda: check(wish(host=host))) == "plain-http-exposed"
    check(wish(host=host, is_plain_allowed=True))
    key = tmp_path / "key.pem"
    key.touch(0o600)
    check(wish(host=host, tls_cert=key, tls_key=key))


def test_a_key_that_others_may_read_is_refused(tmp_path: pathlib.Path) -> None:
    """So is half a pair, and a key that is not there."""
    key = tmp_path / "key.pem"
    assert code(lambda: check(wish(tls_key=key))) == "tls-incomplete"
    assert code(lambda: check(wish(tls_cert=key, tls_key=key))) == "tls-incomplete"
    key.touch(0o644)
    assert code(lambda: check(wish(tls_cert=key, tls_key=key))) == "tls-key-exposed"


def test_a_port_that_is_taken(tmp_path: pathlib.Path) -> None:
    """Another listener is named, to be retried or avoided."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert code(lambda: listen(wish(port=port))) == "address-in-use"
    assert code(lambda: listen(wish(host="192.0.2.1"))) == "address-unusable"


def test_a_unix_socket_is_for_one_s_own_user(tmp_path: pathlib.Path) -> None:
    """Mode 0600; one left by a killed process is replaced, another file is not."""
    path = tmp_path / "s"
    listen(wish(uds=path)).close()
    with listen(wish(uds=path)):
        assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    path.write_text("precious")
    assert code(lambda: listen(wish(uds=path))) == "address-in-use"
    assert path.read_text() == "precious"
