"""The repository keeps its own promises: locks, import rule, links, commands.

The import contracts are tested by planting a violation in a copy of the sources: a contract that was never seen to
fail may check nothing.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Built from pieces, so that this file does not name what it forbids.
REGISTRIES = re.compile(
    "|".join(
        [
            r"py" + r"pi\.o" + "rg",
            "python" + r"hosted\.o" + "rg",
            r"registry\.npm" + "js",
            r"(deb|security)\.deb" + r"ian\.o" + "rg",
            r"--(extra-)?index" + "-url ",
            r"--find" + "-links ",
        ]
    )
)

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ ;\\]+)")


def tracked_text() -> dict[pathlib.Path, str]:
    """Every text file that git tracks; fails outside a checkout."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    texts = {}
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file():  # a file deleted and not yet committed is still listed
            data = path.read_bytes()
            if b"\0" not in data[:8192]:
                texts[path] = data.decode(errors="replace")
    return texts


def pins(lock: pathlib.Path) -> dict[str, tuple[str, int]]:
    """A lock's packages: name to (version, number of hashes)."""
    found: dict[str, tuple[str, int]] = {}
    name = ""
    for line in lock.read_text().splitlines():
        if match := PIN.match(line):
            name = match["name"]
            found[name] = (match["version"], 0)
        elif line.strip().startswith("--hash=sha256:"):
            version, hashes = found[name]
            found[name] = (version, hashes + 1)
        else:
            assert not line.strip() or line.lstrip().startswith("#"), f"{lock.name}: {line!r}"
    return found


def test_no_file_names_a_registry() -> None:
    """A checkout installs from whatever index its machine uses: no tracked file points anywhere."""
    hits = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in tracked_text().items()
        if (match := REGISTRIES.search(text))
    ]
    assert hits == []


def test_no_file_names_a_path_of_this_machine() -> None:
    """Nothing tracked depends on where somebody's checkout or environment lies."""
    places = [f"{ROOT}/", f"{pathlib.Path.home()}/", f"{sys.prefix}/"]
    hits = [
        f"{path.relative_to(ROOT)}: {place}"
        for path, text in tracked_text().items()
        for place in places
        if place in text
    ]
    assert hits == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_a_hash(lock: pathlib.Path) -> None:
    """A lock holds exact versions with hashes and nothing else, so an altered package is refused."""
    found = pins(lock)
    assert found
    assert [name for name, (_, hashes) in found.items() if hashes == 0] == []


@pytest.mark.parametrize("name", ["build", "run", "dev"])
def test_locks_agree(name: str) -> None:
    """All locks pin the same versions, so one environment can hold every one of them."""
    everything = pins(ROOT / "requirements" / "bench.txt")
    mine = pins(ROOT / "requirements" / f"{name}.txt")
    assert {n: v for n, (v, _) in mine.items() if everything[n][0] != v} == {}


VIOLATIONS = {
    "layers": (
        "core/planted.py",
        "import outlast.ports.keys",
        "Each layer imports only from the layers below it",
    ),
    "layers are exhaustive": (
        "unplaced/__init__.py",
        "",
        "Each layer imports only from the layers below it",
    ),
    "adapters are wiring's": (
        "surfaces/planted.py",
        "import outlast.adapters.keys.planted",
        "Only wiring imports adapters",
    ),
    "fakes are for game days": (
        "surfaces/planted.py",
        "import outlast.testing.planted",
        "Only game days import the fakes",
    ),
    "adapters know no domain": (
        "adapters/keys/planted.py",
        "import outlast.signing.planted",
        "Adapters know no domain",
    ),
    "adapters are independent": (
        "adapters/keys/planted.py",
        "import outlast.adapters.blob.planted",
        "No adapter knows another",
    ),
    "a model reads no clock": (
        "signing/model/planted.py",
        "import time",
        "What decides is pure: no clock, no disk, no network, no port",
    ),
    "a model reads our clock not even indirectly": (
        "signing/model/planted.py",
        "import outlast.core.ids",
        "What decides is pure: no clock, no disk, no network, no port",
    ),
    "SDKs stay in adapters": (
        "wiring/planted.py",
        "import pkcs11",
        "A vendor's SDK is known to its adapter only",
    ),
    "the telemetry SDK stays in wiring": (
        "core/planted.py",
        "import opentelemetry",
        "The telemetry SDK is known to wiring only",
    ),
    "no cycles": (
        "core/store/planted.py",
        "import outlast.core.clock",
        "No cycles between siblings, at any depth",
    ),
}


def lint_imports(tree: pathlib.Path) -> str:
    """What import-linter prints about the copy of the sources in ``tree``."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, 'src'); "
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """The sources and the contracts, with empty modules that a planted import may name."""
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.sql")
    )
    shutil.copy(ROOT / ".importlinter", tmp_path)
    for package in ("adapters/keys", "adapters/blob", "testing", "signing"):
        (tmp_path / "src" / "outlast" / package / "planted.py").touch()
    return tmp_path


def test_the_import_rule_holds(copy: pathlib.Path) -> None:
    """The sources as they are keep every contract."""
    report = lint_imports(copy)
    assert "0 broken" in report, report


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_planted_import_is_caught(copy: pathlib.Path, violation: str) -> None:
    """Each contract fails on the violation it is there for."""
    file, line, contract = VIOLATIONS[violation]
    target = copy / "src" / "outlast" / file
    target.parent.mkdir(exist_ok=True)
    target.write_text(line + "\n")
    if violation == "no cycles":
        (copy / "src" / "outlast" / "core" / "clock.py").write_text(
            "import outlast.core.store.planted\n"
        )
    report = lint_imports(copy)
    assert f"{contract} BROKEN" in " ".join(report.split()), report


LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def test_every_link_in_the_documentation_leads_somewhere() -> None:
    """No page promises a page that is not there."""
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path, text in tracked_text().items()
        if path.suffix == ".md"
        for target in LINK.findall(text)
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_listed() -> None:
    """A page that the index does not name is not found by anyone."""
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text()
    pages = [path.relative_to(docs).as_posix() for path in docs.glob("*/*.md")]
    # decisions have an index of their own
    listed = [page for page in pages if not page.startswith("adr/") or page == "adr/README.md"]
    assert [page for page in listed if f"]({page})" not in index] == []


def test_decisions_are_numbered_and_listed() -> None:
    """ADR numbers have no gap and no double, and the index lists each."""
    folder = ROOT / "docs" / "adr"
    names = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [int(name[:4]) for name in names] == list(range(len(names)))
    index = (folder / "README.md").read_text()
    assert [name for name in names if name not in index] == []


def test_ci_runs_what_the_readme_says() -> None:
    """A stranger's command and the machine's are the same one."""
    assert "make test" in (ROOT / "README.md").read_text()
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_commands_of_the_readme_exist() -> None:
    """Every `make` target named in the README and the contributing guide is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", text, re.MULTILINE))
    assert named
    assert named <= targets


def test_the_licence_is_whole() -> None:
    """The licence named in the metadata is there in full."""
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
