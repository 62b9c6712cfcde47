"""Where signed files go, decided before anything is sent."""

from __future__ import annotations

import pathlib

import pytest

from outlast.core.errors import Refused
from outlast.surfaces.cli.signing import Errand, plan


def code(**given: object) -> str:
    """The code of the refusal."""
    with pytest.raises(Refused) as refused:
        run(**given)  # type: ignore[arg-type]  # handed on as given
    return refused.value.code


def run(
    files: list[pathlib.Path],
    out: pathlib.Path | None = None,
    evidence: pathlib.Path | None = None,
    is_cms: bool = False,
    force: bool = False,
) -> list[Errand]:
    """A plan with defaults."""
    return plan(files, out, evidence, is_cms=is_cms, force=force)


@pytest.fixture
def pdf(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file that looks like a PDF."""
    path = tmp_path / "contract.pdf"
    path.write_bytes(b"\n%PDF-1.7\n")
    return path


@pytest.fixture
def text(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file that does not, whatever its name says."""
    path = tmp_path / "note.pdf"
    path.write_bytes(b"a note")
    return path


def test_beside_the_file_by_default(pdf: pathlib.Path, text: pathlib.Path) -> None:
    """A signed PDF gets a name of its own, another file a .p7s; what a file is, its content says."""
    first, second = run([pdf, text])
    assert first.target == pdf.with_name("contract-signed.pdf")
    assert first.media_type == "application/pdf"
    assert second.target == text.with_name("note.pdf.p7s")
    assert second.media_type == "application/octet-stream"


def test_one_file_to_a_file_many_to_a_folder(pdf: pathlib.Path, text: pathlib.Path) -> None:
    """A folder is made where several files need one, or the name ends as a folder's."""
    folder = pdf.parent
    assert run([pdf], folder / "s.pdf")[0].target == folder / "s.pdf"
    assert run([pdf], folder)[0].target == folder / "contract-signed.pdf"
    assert [e.target.parent for e in run([pdf, text], folder / "out")] == [folder / "out"] * 2
    assert (folder / "out").is_dir()


def test_evidence_goes_the_same_way(pdf: pathlib.Path, text: pathlib.Path) -> None:
    """To a file for one, into a folder for several."""
    folder = pdf.parent
    assert run([pdf], None, folder / "e.zip")[0].evidence == folder / "e.zip"
    made = run([pdf, text], None, folder / "bundles")
    assert [e.evidence for e in made] == [
        folder / "bundles" / "contract-evidence.zip",
        folder / "bundles" / "note-evidence.zip",
    ]


def test_a_detached_signature_for_a_pdf(pdf: pathlib.Path) -> None:
    """--cms leaves the PDF as it is."""
    assert run([pdf], is_cms=True)[0].target == pdf.with_name("contract.pdf.p7s")


def test_nothing_is_written_over(pdf: pathlib.Path) -> None:
    """Files that are there, the source itself, and one target for two files are refused."""
    folder = pdf.parent
    (folder / "there").write_text("")
    assert code(files=[pdf], out=folder / "there") == "file-exists"
    assert code(files=[pdf], evidence=folder / "there") == "file-exists"
    assert run([pdf], folder / "there", force=True)
    assert code(files=[pdf], out=pdf, force=True) == "same-target"
    assert code(files=[pdf, pdf], out=folder / "out") == "same-target"


def test_places_that_cannot_be(pdf: pathlib.Path) -> None:
    """No source, no folder, a file where a folder must be."""
    folder = pdf.parent
    assert code(files=[folder / "nope.pdf"]) == "file-not-found"
    assert code(files=[folder]) == "file-not-found"
    assert code(files=[pdf], out=folder / "no" / "s.pdf") == "out-missing"
    assert code(files=[pdf, pdf], out=pdf) == "out-not-a-folder"
