"""The file by which commands find the site of this machine, and what they refuse to believe."""

from __future__ import annotations

import os
import pathlib
import ssl
import subprocess

import pytest

from outlast.core.errors import Refused
from outlast.surfaces.cli.endpoint import (
    Endpoint,
    endpoint_path,
    find_endpoint,
    remove_endpoint,
    tls_context,
    write_endpoint,
)


def endpoint(pid: int) -> Endpoint:
    """One of a process."""
    return Endpoint(url="http://127.0.0.1:1", token="ol_x_y", pid=pid)


def test_what_is_written_is_found(tmp_path: pathlib.Path) -> None:
    """Mode 0600 in a folder of mode 0700, replaced by the next, removed by its own process only."""
    write_endpoint(tmp_path, endpoint(os.getpid()))
    write_endpoint(tmp_path, endpoint(os.getpid()))
    path = endpoint_path(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert find_endpoint(tmp_path) == endpoint(os.getpid())
    remove_endpoint(tmp_path, os.getpid() + 1)
    assert path.exists()
    remove_endpoint(tmp_path, os.getpid())
    assert find_endpoint(tmp_path) is None
    assert list(path.parent.iterdir()) == []


def test_a_dead_process_s_file_is_passed_over(tmp_path: pathlib.Path) -> None:
    """After a kill -9 the file is left behind: no site runs there."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    write_endpoint(tmp_path, endpoint(ended.pid))
    assert find_endpoint(tmp_path) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: pathlib.Path, mode: int) -> None:
    """Its token may be known to others, or be theirs."""
    write_endpoint(tmp_path, endpoint(os.getpid()))
    endpoint_path(tmp_path).chmod(mode)
    with pytest.raises(Refused) as refused:
        find_endpoint(tmp_path)
    assert refused.value.code == "endpoint-unsafe"
    assert "ol_x_y" not in refused.value.message


def test_a_link_is_refused(tmp_path: pathlib.Path) -> None:
    """Somebody else may have laid it."""
    path = endpoint_path(tmp_path)
    path.parent.mkdir()
    target = tmp_path / "elsewhere"
    target.write_text("{}")
    target.chmod(0o600)
    path.symlink_to(target)
    with pytest.raises(Refused, match="endpoint"):
        find_endpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"url": 1}'])
def test_what_is_no_endpoint_is_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    """A damaged file is an error that says what to do, not "no site"."""
    write_endpoint(tmp_path, endpoint(os.getpid()))
    endpoint_path(tmp_path).write_bytes(content)
    with pytest.raises(Refused) as refused:
        find_endpoint(tmp_path)
    assert "Stop the site" in refused.value.hint


def test_tls_is_checked_by_the_site_s_own_file(tmp_path: pathlib.Path) -> None:
    """Certificates are always required; a file that is none is an error."""
    assert tls_context(endpoint(1)).check_hostname
    empty = tmp_path / "c.pem"
    empty.write_text("")
    with pytest.raises(Refused):
        tls_context(Endpoint(url="", token="", pid=1, ca_file=str(empty)))
    assert tls_context(endpoint(1)).verify_mode is ssl.CERT_REQUIRED
