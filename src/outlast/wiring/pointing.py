"""Points a site's configuration at another database: one line of the file, the rest stays as it was written."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import msgspec

from outlast.core.errors import Refused

_HEADER = re.compile(r"^\s*\[store\]\s*(#.*)?$")
_ANY_HEADER = re.compile(r"^\s*\[")
_SETTING = re.compile(r"^\s*dsn_file\s*=")


def point_store_to(file: Path, dsn_file: Path | None) -> None:
    """Set ``[store] dsn_file`` in a configuration file, or take it out (None), in one rename.

    Raises Refused ``config-unchanged`` where the file is written in a way that this cannot change; nothing is changed
    then.
    """
    text = file.read_text()
    value = None if dsn_file is None else _relative(dsn_file.absolute(), file.absolute().parent)
    changed = _changed(text, value)
    if _setting(changed) != (value or ""):
        raise Refused(
            "config-unchanged",
            f"{file.name} is written in a way that is not changed by program",
            hint=f"Set it yourself: {_line(value)} under [store].",
        )
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(changed)
    temporary.chmod(file.stat().st_mode & 0o777)
    os.replace(temporary, file)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _line(value: str | None) -> str:
    if value is None:
        return "no dsn_file"
    return f"dsn_file = {msgspec.json.encode(value).decode()}"  # a JSON string is a TOML string


def _changed(text: str, value: str | None) -> str:
    lines = text.splitlines()
    at = next((number for number, line in enumerate(lines) if _HEADER.match(line)), None)
    if at is None:
        return text if value is None else f"{text.rstrip()}\n\n[store]\n{_line(value)}\n".lstrip()
    rest = range(at + 1, len(lines))
    end = next((number for number in rest if _ANY_HEADER.match(lines[number])), len(lines))
    found = [number for number in range(at + 1, end) if _SETTING.match(lines[number])]
    if value is None:
        for number in found:
            lines[number] = f"# {lines[number].lstrip()}"
    elif found:
        lines[found[0]] = _line(value)
    else:
        lines.insert(at + 1, _line(value))
    return "\n".join(lines) + "\n"


def _setting(text: str) -> str:
    try:
        found = tomllib.loads(text).get("store", {}).get("dsn_file", "")
    except (tomllib.TOMLDecodeError, AttributeError):
        return "\0"
    return str(found)
