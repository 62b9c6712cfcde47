#!/usr/bin/env python3
"""Keep the store of a release as "the previous release", for tests/migration.

    scripts/freeze_store.py REVISION     copies src/outlast/core/store of a tag or commit to tests/migration/previous
    scripts/freeze_store.py --seal       records what is there now (after an edit that had to be made by hand)

Run it at a release, with the tag: from then on the tests show that the code of that release works on the schema as the
next one changes it. The copy is a package of its own, ``previous_store``; what it imports of outlast besides the store
is today's. MANIFEST.json has the revision and a digest of every file, so that the copy is not edited by accident.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
STORE = "src/outlast/core/store"
TARGET = ROOT / "tests" / "migration" / "previous"
PACKAGE = TARGET / "previous_store"
MANIFEST = TARGET / "MANIFEST.json"


def freeze(revision: str) -> None:
    """Copy, rename the package, record."""
    archive = subprocess.run(
        ["git", "archive", revision, STORE], cwd=ROOT, check=True, capture_output=True
    ).stdout
    commit = subprocess.run(
        ["git", "rev-parse", revision], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    shutil.rmtree(PACKAGE, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files.getmembers():
            source = files.extractfile(member) if member.isfile() else None
            if source is not None:
                path = PACKAGE / pathlib.PurePosixPath(member.name).relative_to(STORE)
                path.parent.mkdir(parents=True, exist_ok=True)
                text = source.read().decode()
                path.write_text(text.replace("outlast.core.store", "previous_store"))
    seal(commit)


def seal(commit: str) -> None:
    """Record what is there."""
    MANIFEST.write_text(json.dumps({"commit": commit, "files": digests()}, indent=1) + "\n")


def digests() -> dict[str, str]:
    """The SHA-256 of every file of the copy."""
    return {
        path.relative_to(TARGET).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in (".py", ".sql")
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--seal":
        seal(json.loads(MANIFEST.read_text())["commit"])
    else:
        freeze(sys.argv[1])
