"""The README's five-minute tour works as it is written.

Every command of the section is taken from the README itself and run, in order, in an empty folder. Only the port is
not the README's (several tests run at once): it is in the folder's outlast.toml.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = pathlib.Path(sys.executable).parent / "outlast"
START_TIMEOUT_S = 30.0


def tour() -> list[str]:
    """The commands of the section, continued lines joined."""
    text = (ROOT / "README.md").read_text()
    section = text.split("\n## Five-minute tour\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def run(command: str, folder: pathlib.Path) -> str:
    """Run a command of the tour; what it prints."""
    words = shlex.split(command)
    if words[0] == ".venv/bin/outlast":
        words[0] = str(PROGRAM)
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def send(command: str, folder: pathlib.Path, port: int, token: str, document: str) -> Any:
    """Do what a curl command of the tour says, without needing curl."""
    words = shlex.split(command.replace("$TOKEN", token).replace("<id>", document))
    headers = dict(word.split(": ", 1) for flag, word in itertools.pairwise(words) if flag == "-H")
    if "-d" in words:
        body = words[words.index("-d") + 1].encode()
    else:
        body = (folder / words[words.index("--data-binary") + 1].removeprefix("@")).read_bytes()
    url = words[-1].replace(":8470", f":{port}")
    asked = urllib.request.Request(url, body, headers, method="POST")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


def started(log: pathlib.Path, child: subprocess.Popen[bytes]) -> str:
    """The administrator's token, once the site has printed it."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and child.poll() is None:
        match = re.search(r"\bol_\S+", log.read_text())
        if match and "Ctrl-C" in log.read_text():
            return match.group()
        time.sleep(0.05)
    raise AssertionError(f"the site did not start:\n{log.read_text()}")


@pytest.mark.slow
def test_the_tour_works(tmp_path: pathlib.Path, free_port: int) -> None:
    """Serve, sign, verify, read the log and use the API, exactly as the README says."""
    (tmp_path / "outlast.toml").write_text(f"[http]\nport = {free_port}\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = tour()
    assert commands[0] == ".venv/bin/outlast serve"
    log = tmp_path / "serve.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [PROGRAM, "serve"],
            cwd=tmp_path,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        token, document = started(log, child), ""
        for command in commands[1:]:
            if command.startswith("curl "):
                answer = send(command, tmp_path, free_port, token, document)
                document = document or answer["id"]
            else:
                run(command, tmp_path)
        assert answer["status"] == "completed"
    finally:
        child.terminate()
        child.wait(30)
