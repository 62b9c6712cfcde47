"""Secret files of a site: made at first start, readable by its user only, read back ever after."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from outlast.core.errors import Refused

MAX_SECRET_BYTES = 64 * 1024


def read_secret(path: Path) -> bytes:
    """A secret file's content without surrounding white space; raises Refused ``secret-unreadable`` (missing,
    readable by others) naming the file with its path, but never its content."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o077
            content = file.read(MAX_SECRET_BYTES)
    except OSError as error:
        raise Refused(
            "secret-unreadable",
            f"{path}: {error.strerror}",
            hint="Check the path in the configuration and the file's permissions.",
        ) from error
    if mode:
        raise Refused(
            "secret-exposed",
            f"{path} can be read by other users",
            hint=f"chmod 600 {path}",
        )
    return content.strip()


def write_secret(path: Path, content: bytes) -> None:
    """Write a new secret file, durably, mode 0600; raises FileExistsError when it is there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def secret_or_new(path: Path, size: int = 32) -> bytes:
    """The secret in a file, or a fresh random one put there (``size`` random bytes as hex text)."""
    if not path.exists():
        try:
            write_secret(path, secrets.token_hex(size).encode() + b"\n")
        except FileExistsError:
            pass  # another process made it between the two looks
    return read_secret(path)
