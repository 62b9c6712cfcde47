"""How commands find the site that runs on this machine: ``run/endpoint.json`` in its data folder.

Guarantees: only the site's user can read the file (mode 0600; a file that others may read, or that belongs to
somebody else, is refused), and its token is worth nothing once the process has ended properly or another has
started.
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

import msgspec

from outlast.core.errors import Refused

MAX_ENDPOINT_BYTES = 16 * 1024
TITLE = "commands on this machine"
"""The title of the API key in the file: at its start a site revokes those that an earlier process left."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A running site. ``uds`` is the path of its Unix socket, empty for TCP; ``ca_file`` what its TLS certificate
    is checked with, empty for the system's roots."""

    url: str
    token: str
    pid: int
    uds: str = ""
    ca_file: str = ""


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """How to check the site's TLS certificate: a site of this machine by the very file that it serves with,
    whatever name stands in it; one elsewhere by the system's roots. Raises Refused ``endpoint-unsafe``."""
    if not endpoint.ca_file:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise _unsafe(Path(endpoint.ca_file), "no certificates can be read from it") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def endpoint_path(data: Path) -> Path:
    """Where the file is."""
    return data / "run" / "endpoint.json"


def write_endpoint(data: Path, endpoint: Endpoint) -> None:
    """Put the file there, whole at once, mode 0600."""
    path = endpoint_path(data)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".endpoint.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(endpoint) + b"\n")
    temporary.replace(path)


def remove_endpoint(data: Path, pid: int) -> None:
    """Take the file away if it is of this process."""
    found = _read(endpoint_path(data))
    if found is not None and found.pid == pid:
        endpoint_path(data).unlink(missing_ok=True)


def find_endpoint(data: Path) -> Endpoint | None:
    """The site that runs over this data folder; None when none does. Raises Refused ``endpoint-unsafe``."""
    found = _read(endpoint_path(data))
    return found if found is not None and _is_running(found.pid) else None


def _read(path: Path) -> Endpoint | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unsafe(path, error.strerror or "cannot be read") from error
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise _unsafe(path, "others may read it")
        if facts.st_uid not in (os.geteuid(), 0):
            raise _unsafe(path, "it belongs to another user")
        content = file.read(MAX_ENDPOINT_BYTES)
    try:
        return msgspec.json.decode(content, type=Endpoint)
    except msgspec.MsgspecError as error:
        raise _unsafe(path, "it is not what `outlast serve` writes") from error


def _unsafe(path: Path, why: str) -> Refused:
    return Refused(
        "endpoint-unsafe",
        f"{path}: {why}",
        hint="Stop the site, remove the file, start the site again.",
    )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
