"""The demo itself, small: real processes are killed, and every promise is kept."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
REQUESTS = 24
TIMEOUT_S = 150.0

pytestmark = pytest.mark.slow


def command(folder: pathlib.Path, *more: str) -> list[str]:
    """`outlast demo` by this interpreter."""
    code = "import sys; from outlast.surfaces.cli.main import main; sys.exit(main())"
    options = ["--requests", str(REQUESTS), "--folder", str(folder), *more]
    return [sys.executable, "-c", code, "demo", *options]


def pids_of(folder: pathlib.Path) -> list[int]:
    """Processes that were started with something of the folder in their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has ended
    return found


def none_left(folder: pathlib.Path, within_s: float) -> bool:
    """Whether all of them end in time."""
    end = time.monotonic() + within_s
    while (left := pids_of(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return not left


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any], str]:
    """One run: its folder, its summary, what it said meanwhile."""
    folder = tmp_path_factory.mktemp("demo") / "demo-data"
    done = subprocess.run(
        command(folder, "--json"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder, json.loads(done.stdout), done.stderr


def test_nothing_lost_nothing_twice(demo: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    """Everything that was accepted is signed once, timestamped and verified, by more than one provider."""
    _, summary, _ = demo
    verdict = summary["verdict"]
    assert summary["ok"]
    assert verdict["accepted"] == verdict["signed"] == verdict["completed"] == REQUESTS
    assert verdict["lost"] == verdict["duplicated"] == verdict["faults"] == []
    assert verdict["checked"]["documents"] == verdict["checked"]["bundles"] == REQUESTS
    assert verdict["checked"]["log_ok"]
    assert verdict["checked"]["log_extends"] > 0
    assert summary["asked_again"] == REQUESTS
    assert set(verdict["signed_by"]) == {"appliance", "local"}


def test_every_fault_was_felt(demo: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    """Attempts failed over, timestamps were owed and settled, the site came back: the faults did happen."""
    _, summary, told = demo
    verdict, timings = summary["verdict"], summary["timings"]
    assert verdict["failovers"] > 0
    assert verdict["owed"] == verdict["settled"] > 0
    assert 0 <= timings["failover_ms"] < 10_000
    assert timings["site_back_ms"] > 0
    for words in ("appliance killed", "tsa-1 blackholed", "tsa-2 killed", "site killed", "is back"):
        assert words in told


def test_what_it_leaves(demo: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    """Files, bundles, ledger and summary are there, and no process."""
    folder, summary, _ = demo
    assert len(list((folder / "signed").glob("*.pdf"))) == REQUESTS
    bundles = list((folder / "evidence").glob("*.zip"))
    assert len(bundles) == REQUESTS
    assert all(zipfile.ZipFile(path).testzip() is None for path in bundles[:3])
    assert json.loads((folder / "summary.json").read_text()) == summary
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert len({line["key"] for line in ledger}) == REQUESTS
    assert none_left(folder, 0)


def test_its_commands_work(demo: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    """The three commands it prints succeed as they stand; the last one is openssl's alone."""
    _, summary, _ = demo
    assert len(summary["commands"]) == 3
    for what, line in summary["commands"]:
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{what}: {line}\n{done.stdout}{done.stderr}"
    assert "outlast" not in summary["commands"][2][1].replace(summary["data"], "")


def test_a_changed_file_is_found(demo: tuple[pathlib.Path, dict[str, Any], str]) -> None:
    """The verdict rests on the files: one changed byte in a signed file fails the command it was checked with."""
    folder, _, _ = demo
    victim = sorted((folder / "signed").glob("*.pdf"))[0]
    content = victim.read_bytes()
    at = content.index(b"stream") - 10
    victim.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    code = "import sys; from outlast.surfaces.cli.main import main; sys.exit(main())"
    trust = ["--trust", str(folder / "pki" / "demo-ca.pem"), "--strict"]
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(victim), *trust],
        capture_output=True,
        check=False,
    )
    victim.write_bytes(content)
    assert done.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM, even SIGKILL of the demo: nothing that it started runs on."""
    folder = tmp_path / "demo-data"
    demo = subprocess.Popen(
        command(folder),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "appliance killed" in line:
                break
        assert len(pids_of(folder)) >= 4
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert none_left(folder, 10)
    if number is not signal.SIGKILL:
        assert demo.returncode == 130
        assert "Nothing is left running" in rest


def test_foreign_folder_is_refused(tmp_path: pathlib.Path) -> None:
    """A folder that no demo made is left alone."""
    (tmp_path / "mine").write_text("keep")
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "will not be wiped" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_examples(tmp_path: pathlib.Path) -> None:
    """Without documents it says where it looked, before it makes anything."""
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        command(tmp_path / "data", "--examples", str(tmp_path / "empty")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no PDFs in" in done.stderr
    assert not (tmp_path / "data").exists()
