"""A running Outlast site for a benchmark: `outlast serve` as a process, with a configuration of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from bench.load import MARK, PREVIOUS, Step
from bench.sample import one_page_pdf
from bench.servers import HERE, free_port, process

REQUESTS = "/v1/signature-requests"
DOCUMENTS = "/v1/documents"
WAIT_S = 30
"""How long a request that is to be completed may take, as it is told to the server."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A site that listens. ``token`` may do everything."""

    port: int
    token: str
    pid: int
    folder: pathlib.Path

    def headers(self, content_type: str = "application/json") -> dict[str, str]:
        """Authentication, and a fresh idempotency key in each turn."""
        return {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": content_type,
            "Idempotency-Key": MARK,
        }

    def upload(self) -> str:
        """Put the one-page document in; returns its id."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {**self.headers("application/pdf"), "Idempotency-Key": "upload"}
        connection.request("POST", DOCUMENTS, one_page_pdf(), headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 201:
            raise RuntimeError(f"the upload was answered {answer.status}: {body[:2000]!r}")
        return str(json.loads(body)["id"])

    def upload_step(self) -> Step:
        """A document in, as a step of a load."""
        return Step(
            path=DOCUMENTS,
            expect=201,
            headers={**self.headers("application/pdf"), "Idempotency-Key": f"{MARK}-document"},
            body=one_page_pdf(),
        )

    def sign_step(self, document: str = PREVIOUS) -> Step:
        """A request that is answered when the document is signed."""
        body = json.dumps({"document": document, "name": "Ada", "reason": "I agree"}).encode()
        headers = {**self.headers(), "Prefer": f"wait={WAIT_S}"}
        return Step(
            path=REQUESTS,
            expect=200,
            expect_text='"status":"completed"',
            headers=headers,
            body=body,
        )

    def metrics(self) -> str:
        """The site's own figures, in Prometheus's text form."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {self.token}"})
        text = connection.getresponse().read().decode()
        connection.close()
        return text


def configuration(folder: pathlib.Path, port: int, tables: str) -> str:
    """A site's TOML: its folder and port, and whatever ``tables`` adds."""
    return f'[site]\nname = "bench"\ndata = "{folder}/data"\n\n[http]\nport = {port}\n\n{tables}\n'


def on_postgres(folder: pathlib.Path, dsn: str) -> str:
    """The part of a configuration that puts the site's store on PostgreSQL."""
    file = folder / "dsn"
    file.touch(mode=0o600)
    file.write_text(dsn)
    return f'[store]\ndsn_file = "{file}"\n'


@contextlib.contextmanager
def site(folder: pathlib.Path, tables: str = "") -> Iterator[Running]:
    """Serve a new site in ``folder`` until the block is left."""
    config = folder / "outlast.toml"
    config.write_text(configuration(folder, free_port(), tables))
    done = subprocess.run(
        [sys.executable, "-m", "bench.prepare", config],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"the site could not be made ready:\n{done.stderr[-4000:]}")
    with serving(folder, tables, json.loads(done.stdout.splitlines()[-1])["token"]) as running:
        yield running


@contextlib.contextmanager
def serving(folder: pathlib.Path, tables: str, token: str = "") -> Iterator[Running]:
    """Serve what is in ``folder`` already."""
    port = free_port()
    config = folder / "outlast.toml"
    config.write_text(configuration(folder, port, tables))
    program = pathlib.Path(sys.executable).parent / "outlast"
    command = [str(program), "serve", "--config", str(config)]
    log = folder / "site.log"
    with process(command, log=log, port=port) as child:
        try:
            yield Running(port=port, token=token, pid=child.pid, folder=folder)
        except Exception as error:
            error.add_note(f"The site's own log ends with:\n{log.read_text()[-4000:]}")
            raise


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        path = pathlib.Path(f"/proc/{parent}/task/{parent}/children")
        if path.exists():
            found += [int(child) for child in path.read_text().split()]
    return found


def memory_mib(pid: int) -> tuple[float, float]:
    """Proportional set size and resident set size of one process, in MiB (smaps_rollup; proc(5))."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    values = dict(re.findall(r"^(Pss|Rss): +(\d+) kB", text, re.MULTILINE))
    return int(values["Pss"]) / 1024, int(values["Rss"]) / 1024
