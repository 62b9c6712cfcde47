"""The command line as a stranger meets it: the installed program, in an empty folder, against real processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from outlast.surfaces.cli.main import main
from outlast.testing.pdfs import plain_pdf

OUTLAST = pathlib.Path(sys.executable).with_name("outlast")
READY_S = 30.0


class Done(NamedTuple):
    """What a command left."""

    status: int
    stdout: str
    stderr: str


class Stranger:
    """Somebody in a folder with the program and one document."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.sites: list[subprocess.Popen[str]] = []
        self._monkeypatch = monkeypatch
        (folder / "contract.pdf").write_bytes(plain_pdf())

    def run(self, *arguments: object, status: int = 0, token: str = "") -> Done:
        """A command in this process (a new one costs a second), its exit status checked."""
        out, err = io.StringIO(), io.StringIO()
        with self._monkeypatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("COLUMNS", "300")
            patch.setenv("OUTLAST_TOKEN", token)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([str(a) for a in arguments])
        done = Done(code, out.getvalue(), err.getvalue())
        assert code == status, (arguments, done)
        return done

    def binary(self, *arguments: object, status: int = 0) -> Done:
        """The installed program, in a process of its own."""
        ended = subprocess.run(
            [OUTLAST, *map(str, arguments)],
            cwd=self.folder,
            env={name: v for name, v in os.environ.items() if not name.startswith("OUTLAST")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert done.status == status, (arguments, done)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: object, status: int = 0) -> Any:
        """What a command answers with --json."""
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def serve(self, *arguments: str) -> tuple[subprocess.Popen[str], Any]:
        """A site on a free port, and what it said when it was ready."""
        errors = (self.folder / "serve.err").open("a")
        site = subprocess.Popen(
            [OUTLAST, "serve", "--json", "--port", "0", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        errors.close()
        self.sites.append(site)
        assert site.stdout is not None
        line = site.stdout.readline()
        assert line, (self.folder / "serve.err").read_text()
        return site, json.loads(line)

    def stop(self, site: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
        """End a site; its exit status."""
        site.send_signal(number)
        status = site.wait(timeout=READY_S)
        assert site.stdout is not None
        site.stdout.close()
        self.sites.remove(site)
        return status


@pytest.fixture
def stranger(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    """One of them; no site of his is left running."""
    made = Stranger(tmp_path, monkeypatch)
    yield made
    for site in made.sites:
        site.kill()
        site.wait()
        assert site.stdout is not None
        site.stdout.close()


@pytest.mark.slow
def test_a_document_is_signed_and_verified_with_no_site_running(stranger: Stranger) -> None:
    """`sign` makes a site of its own for as long as it takes; what it gives verifies, offline."""
    stranger.binary("sign", "contract.pdf", "-o", "signed.pdf", "--evidence", "evidence.zip")
    root = "outlast-data/pki/ca.pem"
    assert "signed.pdf: valid" in stranger.binary("verify", "signed.pdf", "--trust", root).stdout
    verdict = stranger.json("verify", "evidence.zip", "--trust", root)
    assert (verdict["verdict"], verdict["bundle"]["roots_pinned"]) == ("untrusted", True)
    assert (
        "is there already"
        in stranger.run("sign", "contract.pdf", "-o", "signed.pdf", status=2).stderr
    )
    assert stranger.json("requests", "list")["items"][0]["status"] == "completed"
    assert stranger.run("log", "fsck").stdout.count("sound") == 1


@pytest.mark.slow
def test_a_site_without_configuration(stranger: Stranger) -> None:
    """`serve` says where it is and gives a token once; commands find it; SIGTERM ends it in order."""
    site, started = stranger.serve()
    assert started["token"].startswith("ol_")
    assert started["mode"] == "normal"
    endpoint = stranger.folder / "outlast-data" / "run" / "endpoint.json"
    assert endpoint.stat().st_mode & 0o777 == 0o600
    found = json.loads(endpoint.read_bytes())
    assert (found["url"], found["pid"]) == (started["url"], site.pid)
    signed = stranger.binary("sign", "contract.pdf", "-o", "signed.pdf", "--evidence", "e.zip")
    assert "No site is running" not in signed.stderr
    assert stranger.json("status")["verdict"] == "operational"
    pins = ("--trust", "outlast-data/pki/ca.pem", "--log-key", started["log_keys"][0])
    assert stranger.json("verify", "e.zip", *pins)["verdict"] == "valid"
    assert stranger.run("log", "verify").stdout.startswith("Log outlast.invalid/site: sound")
    assert stranger.stop(site) == 0
    assert not endpoint.exists()
    assert "no site is running" in stranger.run("status", status=3).stderr


@pytest.mark.slow
def test_the_token_opens_the_site_from_elsewhere(
    stranger: Stranger, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --url and OUTLAST_TOKEN, from another folder; without a token, or with another, it is refused."""
    _, started = stranger.serve()
    elsewhere = Stranger(tmp_path_factory.mktemp("elsewhere"), monkeypatch)
    refused = elsewhere.run("--url", started["url"], "status", status=2)
    assert "OUTLAST_TOKEN" in refused.stderr
    token, url = started["token"], started["url"]
    elsewhere.run("sign", "contract.pdf", "-o", "signed.pdf", "--url", url, token=token)
    assert not (elsewhere.folder / "outlast-data").exists()
    wrong = elsewhere.run("status", "--url", url, status=2, token=token[:-1] + "_")
    assert token[:-1] not in wrong.stderr


@pytest.mark.slow
def test_many_files_each_for_itself(stranger: Stranger) -> None:
    """PDFs, another file and a broken one at once: all that can be is signed, the other is named."""
    stranger.serve()
    for i in range(5):
        (stranger.folder / f"a{i}.pdf").write_bytes(plain_pdf(i + 1))
    (stranger.folder / "note.txt").write_text("a note")
    (stranger.folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing")
    files = [f"a{i}.pdf" for i in range(5)] + ["note.txt", "broken.pdf"]
    done = stranger.run("sign", *files, "-o", "out", "--evidence", "bundles", "--json", status=2)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["source"] for r in results] == files
    assert [bool(r.get("exit_status")) for r in results] == [False] * 6 + [True]
    assert results[6]["code"].startswith("pdf-")
    assert len(list((stranger.folder / "out").iterdir())) == 6
    (stranger.folder / "out" / "note.txt").write_text("a note")
    verified = stranger.run("verify", "out", "bundles", "--trust", "outlast-data/pki/ca.pem")
    assert verified.stderr == "12 files, 0 not good.\n"


@pytest.mark.slow
def test_after_kill_9_all_goes_on(stranger: Stranger) -> None:
    """What a killed site left behind stops nobody: its token is revoked at the next start, its work is there."""
    site, _ = stranger.serve()
    stranger.run("sign", "contract.pdf", "-o", "one.pdf")
    left = json.loads((stranger.folder / "outlast-data/run/endpoint.json").read_bytes())
    stranger.stop(site, signal.SIGKILL)
    stranger.run("sign", "contract.pdf", "-o", "two.pdf")
    _, started = stranger.serve()
    assert started["token"] is None
    stranger.run("sign", "contract.pdf", "-o", "three.pdf")
    assert len(stranger.json("requests", "list")["items"]) == 3
    revoked = stranger.run("status", "--url", started["url"], status=2, token=left["token"])
    assert "revoked" in revoked.stderr


@pytest.mark.slow
def test_signing_outlives_the_site(stranger: Stranger) -> None:
    """A site is killed under `outlast sign` of many files and started again: the same command signs them all,
    each once."""
    names = [f"c{number}.pdf" for number in range(30)]
    for name in names:
        (stranger.folder / name).write_bytes(plain_pdf())
    site, _ = stranger.serve()
    command = subprocess.Popen(
        [OUTLAST, "sign", *names, "-o", "signed"],
        cwd=stranger.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + READY_S
    while not list(stranger.folder.glob("signed/c*.pdf")) and time.monotonic() < until:
        time.sleep(0.005)
    stranger.stop(site, signal.SIGKILL)
    stranger.serve()
    said = command.communicate(timeout=60)[0]
    assert command.returncode == 0, said
    assert len(list(stranger.folder.glob("signed/c*.pdf"))) == len(names)
    listed = stranger.json("requests", "list", "--limit", "100")["items"]
    assert sorted(item["title"] for item in listed) == sorted(names)


@pytest.mark.slow
def test_one_site_at_a_time(stranger: Stranger) -> None:
    """A second site over the same data is refused; so is its port by name."""
    _, started = stranger.serve()
    assert "--data" in stranger.run("serve", "--port", "0", status=2).stderr
    port = started["url"].rsplit(":", 1)[1]
    assert "address-in-use" in stranger.run("serve", "--port", port, "--data", "x", status=3).stderr
    assert not (stranger.folder / "x").exists()


@pytest.mark.slow
def test_a_site_whose_loops_die_ends_with_the_reason(stranger: Stranger) -> None:
    """Rather than answering on without working: the exit status is not 0, and the reason is said."""
    code = (
        "import asyncio, sys\n"
        "from outlast.core.errors import Corrupt\n"
        "from outlast.surfaces.cli import running\n"
        "from outlast.surfaces.cli.main import main\n"
        "async def dies(site):\n"
        "    await asyncio.sleep(0.5)\n"
        "    raise Corrupt('worker-died', 'the worker is gone', hint='Look at the disk.')\n"
        "running.run_site = dies\n"
        "sys.exit(main(['serve', '--port', '0']))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=stranger.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert "outlast: the worker is gone (worker-died)\n  Look at the disk.\n" in ended.stderr
    assert not (stranger.folder / "outlast-data/run/endpoint.json").exists()


@pytest.mark.slow
def test_operating_a_site(stranger: Stranger) -> None:
    """Keys, providers, mode, jobs and API keys: what is changed is on record, and shows."""
    stranger.serve()
    stranger.run("keys", "generate", "seal", "--subject", "Acme seal")
    stranger.run("sign", "contract.pdf", "--key", "seal", "-o", "seal.pdf")
    stranger.run("keys", "disable", "seal", "--reason", "test")
    refused = stranger.run("sign", "contract.pdf", "--key", "seal", "-o", "no.pdf", status=2)
    assert "key-disabled" in refused.stderr
    stranger.run("keys", "enable", "seal")
    keys = {k["name"]: k for k in stranger.json("keys", "list")["items"]}
    assert keys["seal"]["signatures"] == 1
    assert keys["seal"]["bindings"][0]["subject"] == "CN=Acme seal"

    stranger.run("mode", "set", "read-only", "--reason", "drill")
    assert stranger.json("mode", "show")["by_hand"]
    began = time.monotonic()
    refused = stranger.run("sign", "contract.pdf", "-o", "no.pdf", status=3)
    assert "read-only" in refused.stderr
    assert time.monotonic() - began < 10
    stranger.run("mode", "release", "--reason", "over")

    stranger.run("providers", "disable", "local", "--reason", "maintenance")
    waiting = stranger.json("sign", "contract.pdf", "-o", "w.pdf", "--wait", "0.5", status=3)
    assert waiting["code"] == "not-signed-yet"
    stranger.run("providers", "enable", "local", "--reason", "done")
    stranger.run("requests", "fetch", waiting["request"], "-o", "w.pdf", "--wait", "20")

    made = stranger.json("api-keys", "create", "--scope", "signatures:read", "--title", "reader")
    stranger.run("api-keys", "revoke", made["id"])
    states = {k["title"]: k["status"] for k in stranger.json("api-keys", "list")["items"]}
    assert states["reader"] == "revoked"
    assert stranger.json("jobs", "list", "--state", "dead")["items"] == []
    end = time.monotonic() + 10
    shown = ""
    while (
        "access.key_revoked" not in shown and time.monotonic() < end
    ):  # the log shows what is published
        shown = stranger.run("log", "show", "--from", "0").stdout
    for event in ("signing.key_disabled", "operations.mode", "access.key_revoked"):
        assert event in shown


@pytest.mark.slow
def test_a_log_is_followed_and_checked_over_time(stranger: Stranger) -> None:
    """A kept checkpoint, the log grown since, a proof of one entry, a copy checked elsewhere, damage found."""
    _, started = stranger.serve()
    stranger.run("sign", "contract.pdf", "-o", "one.pdf")
    stranger.run("log", "verify", "--save", "then")
    stranger.run("sign", "contract.pdf", "-o", "two.pdf")
    time.sleep(0.5)
    grown = stranger.json("log", "verify", "--since", "then")
    assert grown["consistent_with"] < grown["size"]
    stranger.run("log", "prove", "3", "-o", "three.tlog-proof")
    pin = ("--log-key", started["log_keys"][0])
    assert stranger.json("verify", "three.tlog-proof", *pin)["verdict"] == "valid"
    subprocess.run(["cp", "-r", "outlast-data/log", "copy"], cwd=stranger.folder, check=True)
    assert "log-key" in stranger.run("log", "fsck", "--log", "copy", status=2).stderr
    stranger.run("log", "fsck", "--log", "copy", *pin, "--since", "then")
    for bundle in (stranger.folder / "copy" / "tile" / "entries").rglob("*.p/*"):
        content = bundle.read_bytes()
        bundle.write_bytes(content.replace(b"signing.document_added", b"signing.document_adder"))
    damaged = stranger.run("log", "fsck", "--log", "copy", *pin, status=1)
    assert "DAMAGED" in damaged.stdout


@pytest.mark.slow
def test_a_unix_socket_and_tls(stranger: Stranger) -> None:
    """Commands find a site on a Unix socket, and one that serves HTTPS with a certificate of its own."""
    site, started = stranger.serve("--uds", "site.sock")
    assert started["url"] == str(stranger.folder / "site.sock")
    stranger.run("sign", "contract.pdf", "-o", "uds.pdf")
    stranger.stop(site)
    assert not (stranger.folder / "site.sock").exists()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2"],
        cwd=stranger.folder, capture_output=True, check=True,
    )  # fmt: skip
    (stranger.folder / "key.pem").chmod(0o600)
    _, started = stranger.serve(
        "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--host", "0.0.0.0"
    )
    assert started["url"].startswith("https://127.0.0.1:")
    stranger.run("sign", "contract.pdf", "-o", "tls.pdf")
    stranger.run("log", "verify")


@pytest.mark.slow
def test_appending_a_file_outlives_the_site(stranger: Stranger) -> None:
    """A site is killed with -9 while a file is appended and started again: each line is in the log once, in order,
    and the command run again appends nothing."""
    lines = [json.dumps({"n": n, "text": "x" * 300}) for n in range(20_000)]
    (stranger.folder / "audit.ndjson").write_text("\n".join(lines) + "\n")
    site, _ = stranger.serve()
    command = [OUTLAST, "log", "append", "audit.ndjson", "--journal", "billing", "--json"]
    with subprocess.Popen(
        command, cwd=stranger.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as appending:
        database = stranger.folder / "outlast-data" / "site.db-wal"
        end = time.monotonic() + READY_S
        while database.stat().st_size < 3_000_000 and time.monotonic() < end:
            time.sleep(0.01)
        stranger.stop(site, signal.SIGKILL)
        assert appending.poll() is None, "it was over before the site was killed"
        stranger.serve()
        out, err = appending.communicate(timeout=60)
    assert appending.returncode == 0, err
    done = json.loads(out)
    assert (done["lines"], done["batches"]) == (20_000, 20)
    again = stranger.json("log", "append", "audit.ndjson", "--journal", "billing")
    assert (again["lines"], again["known"], again["last"]) == (20_000, 20_000, done["last"])
    shown = stranger.run("log", "show", "--from", "0", "--json").stdout.splitlines()
    recorded = [e["data"]["data"]["n"] for e in map(json.loads, shown) if "billing" in e["stream"]]
    assert recorded == list(range(20_000))
