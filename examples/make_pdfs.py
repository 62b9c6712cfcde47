"""Writes the example documents beside it: ``python examples/make_pdfs.py [FOLDER]``.

Guarantees: standard library only, and the same bytes every time. Each document is built another way, so that the
demo exercises what real ones are made of: cross-reference tables and streams, object streams, a form with an
empty signature field, an incremental update, text outside Latin-1. All people, companies and figures are made up.
"""

from __future__ import annotations

import sys
import textwrap
import zlib
from dataclasses import dataclass, field
from pathlib import Path

PAGE = (595, 842)  # A4 in points
MARGIN = 64
LEADING = 15
INK = "0.10 0.13 0.18"
ACCENT = "0.05 0.32 0.46"
GREY = "0.45 0.48 0.52"


def text_bytes(text: str) -> bytes:
    """A literal string in WinAnsiEncoding."""
    escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return b"(" + escaped.encode("cp1252") + b")"


@dataclass
class Page:
    """A page's content stream, written from the top down."""

    y: int = PAGE[1] - MARGIN
    ops: list[bytes] = field(default_factory=list)
    extra: bytes = b""

    def put(
        self, x: float, y: float, text: str, size: float = 10.5, font: str = "F1", ink: str = INK
    ) -> None:
        """Text at a place."""
        self.ops.append(
            b"BT %s rg /%s %g Tf %g %g Td %s Tj ET"
            % (ink.encode(), font.encode(), size, x, y, text_bytes(text))
        )

    def line(self, text: str, size: float = 10.5, font: str = "F1", ink: str = INK) -> None:
        """A line of text, and down."""
        self.put(MARGIN, self.y, text, size, font, ink)
        self.y -= round(LEADING * max(1, size / 10.5))

    def heading(self, text: str) -> None:
        """A section's title."""
        self.y -= 8
        self.line(text, 12.5, "F2", ACCENT)

    def paragraph(self, text: str, width: int = 92) -> None:
        """Text broken into lines."""
        for part in textwrap.wrap(text, width):
            self.line(part)
        self.y -= 6

    def rule(self) -> None:
        """A thin line across."""
        self.ops.append(
            b"q %s RG 0.7 w %d %d m %d %d l S Q"
            % (GREY.encode(), MARGIN, self.y + 6, PAGE[0] - MARGIN, self.y + 6)
        )
        self.y -= 12

    def box(self, x: float, y: float, width: float, height: float, ink: str) -> None:
        """A filled rectangle."""
        self.ops.append(b"q %s rg %g %g %g %g re f Q" % (ink.encode(), x, y, width, height))

    def stream(self, *, packed: bool = True) -> bytes:
        """The content stream object."""
        return stream(b"\n".join(self.ops), packed=packed)


def stream(data: bytes, entries: bytes = b"", *, packed: bool = True) -> bytes:
    """A stream object, compressed or not."""
    if packed:
        data = zlib.compress(data, 9)
        entries += b" /Filter /FlateDecode"
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries.strip(), len(data), data)


def letterhead(title: str, sender: str, reference: str) -> Page:
    """A page with its head."""
    page = Page()
    page.box(0, PAGE[1] - 26, PAGE[0], 26, ACCENT)
    page.y -= 6
    page.line(sender, 10, "F2", GREY)
    page.line(reference, 9, "F1", GREY)
    page.y -= 14
    page.line(title, 20, "F2", INK)
    page.rule()
    return page


def foot(page: Page, text: str) -> Page:
    """The same page with its foot."""
    page.put(MARGIN, 36, text, 8, "F1", GREY)
    return page


FONTS = {
    3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    4: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
    5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>",
}


def document(
    pages: list[Page], title: str, catalog: bytes = b"", *, packed: bool = True
) -> dict[int, bytes]:
    """The objects of a document: 1 catalog, 2 page tree, 3-5 fonts, 6 information, then the pages."""
    first = 7
    kids = b" ".join(b"%d 0 R" % (first + 2 * i) for i in range(len(pages)))
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /Lang (en) %s>>" % (catalog + b" " if catalog else b""),
        2: b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        **FONTS,
        6: b"<< /Title %s /Producer (Outlast examples) /CreationDate (D:20261101090000Z) >>"
        % text_bytes(title),
    }
    for i, page in enumerate(pages):
        objects[first + 2 * i] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R /F2 4 0 R /F3 5 0 R >> >> %s>>"
            % (*PAGE, first + 2 * i + 1, page.extra)
        )
        objects[first + 2 * i + 1] = page.stream(packed=packed)
    return objects


HEADER = b"%%PDF-%s\n%%\xe2\xe3\xcf\xd3\n"


def classic(objects: dict[int, bytes], version: bytes = b"1.7") -> bytes:
    """The file with a cross-reference table."""
    out = bytearray(HEADER % version)
    offsets = []
    for number in sorted(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(out)
    size = len(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    identifier = b"%032x" % zlib.crc32(bytes(out))
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info 6 0 R /ID [<%s> <%s>] >>\n" % (
        size,
        identifier,
        identifier,
    )
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def compact(objects: dict[int, bytes]) -> bytes:
    """The file as modern software writes it: objects in a compressed stream, cross-references in another."""
    out = bytearray(HEADER % b"1.5")
    loose = {n: body for n, body in objects.items() if b"endstream" in body}
    inside = {n: body for n, body in objects.items() if n not in loose}
    container = max(objects) + 1
    rows = {0: (0, 0, 65535)}
    index, bodies = b"", b""
    for position, (number, body) in enumerate(sorted(inside.items())):
        rows[number] = (2, container, position)
        index += b"%d %d " % (number, len(bodies))
        bodies += body + b"\n"
    entries = b"/Type /ObjStm /N %d /First %d" % (len(inside), len(index))
    loose[container] = stream(index + bodies, entries)
    for number, body in sorted(loose.items()):
        rows[number] = (1, len(out), 0)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    rows[container + 1] = (1, start, 0)
    table = b"".join(
        bytes((kind,)) + where.to_bytes(3, "big") + extra.to_bytes(2, "big")
        for _, (kind, where, extra) in sorted(rows.items())
    )
    entries = b"/Type /XRef /W [1 3 2] /Size %d /Root 1 0 R /Info 6 0 R" % len(rows)
    out += b"%d 0 obj\n%s\nendobj\n" % (container + 1, stream(table, entries))
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def updated(original: bytes, changed: dict[int, bytes], size: int) -> bytes:
    """The file with an incremental update: changed objects appended, the original's bytes kept."""
    out = bytearray(original)
    table = b""
    for number, body in sorted(changed.items()):
        table += b"%d 1\n%010d 00000 n \n" % (number, len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    previous = int(original[original.rindex(b"startxref") :].split()[1])
    start = len(out)
    out += b"xref\n%strailer\n<< /Size %d /Root 1 0 R /Info 6 0 R /Prev %d >>\n" % (
        table,
        size,
        previous,
    )
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


CLAUSES = (
    (
        "Services",
        "The Provider operates the Customer's document archive at two sites and keeps it available for "
        "reading and writing 99.95 % of every calendar month, planned maintenance excluded. Each stored "
        "document is kept in at least two copies, at different sites, until its retention period ends.",
    ),
    (
        "Signatures",
        "Documents that the Customer marks for signing are signed with an advanced electronic signature "
        "in the Customer's name. When a signing provider is not available, the Provider uses another that "
        "Annex A names; it may not use any other. A timestamp that cannot be obtained at once is obtained "
        "within 24 hours, and the delay is recorded.",
    ),
    (
        "Fees",
        "The Customer pays 2,450.00 EUR a month, in advance, within 14 days of the invoice's date. For "
        "each begun half hour below the availability of clause 1 the fee of that month is reduced by 2 %.",
    ),
    (
        "Data protection",
        "The Provider processes personal data for the Customer only as Annex B describes, only inside the "
        "European Economic Area, and deletes it on the Customer's written request within 30 days.",
    ),
    (
        "Term",
        "This agreement begins on 1 December 2026 and is made for two years. It is extended by one year "
        "at a time unless a party gives notice in text form three months before it ends.",
    ),
    (
        "Liability",
        "The parties are liable without limit for intent and gross negligence. For slight negligence they "
        "are liable for breach of an essential duty only, limited to the fees of twelve months.",
    ),
    (
        "Final provisions",
        "Changes need text form. If a provision is void, the others stand. The law of Ireland applies; "
        "the courts of Dublin have jurisdiction between merchants.",
    ),
)


def contract() -> bytes:
    """Two pages, cross-reference table, compressed content."""
    first = letterhead(
        "Service agreement",
        "Harbour Archive Ltd, 4 Quay Street, Galway",
        "Agreement HA-2026-0417, version 3 of 1 November 2026",
    )
    first.paragraph(
        "between Harbour Archive Ltd (the Provider) and Lindqvist & Moreau Shipping AB, Göteborg "
        "(the Customer)."
    )
    for number, (title, body) in enumerate(CLAUSES[:4], 1):
        first.heading(f"{number}. {title}")
        first.paragraph(body)
    second = Page()
    for number, (title, body) in enumerate(CLAUSES[4:], 5):
        second.heading(f"{number}. {title}")
        second.paragraph(body)
    second.y -= 40
    second.rule()
    second.line("For the Provider: Aoife Brennan, director", 10, "F2")
    second.line("For the Customer: Elsa Lindqvist, managing director", 10, "F2")
    pages = [
        foot(page, f"HA-2026-0417  page {i} of 2") for i, page in enumerate((first, second), 1)
    ]
    return classic(document(pages, "Service agreement HA-2026-0417"))


ITEMS = (
    ("Archive operation, November 2026", 1, 245000),
    ("Additional storage, per 100 GB", 12, 1250),
    ("Restore drill with report, 4 November", 1, 38000),
    ("Qualified timestamps", 1840, 4),
    ("Less: availability below target on 12 November (2 %)", 1, -4900),
)


def invoice() -> bytes:
    """One page with a table, uncompressed content, PDF 1.4: what old software writes."""
    page = letterhead("Invoice", "Harbour Archive Ltd, 4 Quay Street, Galway", "No. 2026-11-0093")
    page.paragraph("Lindqvist & Moreau Shipping AB, Skeppsbron 12, 411 21 Göteborg, Sweden")
    page.paragraph(
        "Date of invoice 30 November 2026. Payable by 14 December 2026, without deduction."
    )
    page.box(MARGIN, page.y - 4, PAGE[0] - 2 * MARGIN, 17, "0.91 0.94 0.96")
    for x, text in ((MARGIN + 4, "Item"), (350, "Quantity"), (410, "Price"), (478, "Amount")):
        page.put(x, page.y, text, 9.5, "F2")
    page.y -= 20
    for name, quantity, cents in ITEMS:
        page.put(MARGIN + 4, page.y, name, 9.5)
        page.put(350, page.y, f"{quantity:>8,}", 9.5, "F3")
        page.put(396, page.y, f"{cents / 100:>10,.2f}", 9.5, "F3")
        page.put(464, page.y, f"{quantity * cents / 100:>11,.2f}", 9.5, "F3")
        page.y -= 17
    total = sum(quantity * cents for _, quantity, cents in ITEMS)
    page.rule()
    page.put(396, page.y, "Total EUR", 11, "F2")
    page.put(464, page.y, f"{total / 100:>10,.2f}", 11, "F3")
    page.y -= 40
    page.paragraph(
        "Reverse charge: VAT is owed by the recipient (Article 196, Directive 2006/112/EC)."
    )
    foot(page, "Harbour Archive Ltd  IE 0000000X  IBAN IE00 XXXX 0000 0000 0000 00")
    return classic(document([page], "Invoice 2026-11-0093", packed=False), b"1.4")


def notice() -> bytes:
    """One page in object and cross-reference streams: what modern software writes."""
    page = letterhead(
        "Notice of relocation", "Municipality of Westhaven, Housing Office", "Our sign: HO/26/1187"
    )
    page.line("Westhaven, 20 November 2026", ink=GREY)
    page.y -= 10
    page.paragraph("Dear Ms Okonkwo,")
    page.paragraph(
        "Because of the repair of the water main under Miller Lane, the flats at numbers 14 to 22 cannot be "
        "supplied from 7 December 2026, 08:00, to 11 December 2026, 18:00. For these days a room is reserved for "
        "you and three members of your household at the Guesthouse am Markt, free of charge, breakfast included."
    )
    page.paragraph(
        "Please tell us by 1 December whether you take the room. You may appeal against this notice within one "
        "month of its delivery, in writing, to the Housing Office; the appeal does not delay the works."
    )
    page.paragraph(
        "This notice is sealed electronically. It is valid without a written signature; its printed form is "
        "a copy."
    )
    page.y -= 20
    page.line("By order", 10)
    page.line("Tomasz Zielinski, Housing Office", 10, "F2")
    return compact(document([foot(page, "HO/26/1187")], "Notice of relocation"))


def form() -> bytes:
    """One page with text fields and an empty, visible signature field named Approval."""
    page = letterhead("Travel request", "Outlast Example University, Travel Desk", "Form T-2, 2026")
    labels = ("Name", "Department", "Destination", "From", "To", "Purpose", "Estimated cost (EUR)")
    widgets = {}
    number = 9
    for label in labels:
        page.put(MARGIN, page.y, label, 10, "F2")
        rectangle = b"[%d %d %d %d]" % (220, page.y - 5, PAGE[0] - MARGIN, page.y + 13)
        widgets[number] = (
            b"<< /Type /Annot /Subtype /Widget /FT /Tx /T %s /Rect %s /P 7 0 R /F 4"
            b" /DA (/F1 10 Tf 0 g) /MK << /BC [0.6] >> >>" % (text_bytes(label), rectangle)
        )
        number += 1
        page.y -= 30
    page.y -= 30
    page.put(MARGIN, page.y, "Approved by", 10, "F2")
    rectangle = b"[%d %d %d %d]" % (220, page.y - 40, 420, page.y + 13)
    widgets[number] = (
        b"<< /Type /Annot /Subtype /Widget /FT /Sig /T (Approval) /Rect %s /P 7 0 R /F 4"
        b" /MK << /BC [0.05 0.32 0.46] >> >>" % rectangle
    )
    references = b" ".join(b"%d 0 R" % n for n in widgets)
    page.extra = b"/Annots [%s] " % references
    catalog = (
        b"/AcroForm << /Fields [%s] /DA (/F1 10 Tf 0 g)"
        b" /DR << /Font << /F1 3 0 R >> >> >>" % references
    )
    objects = document([foot(page, "Form T-2")], "Travel request", catalog)
    return classic({**objects, **widgets})


GREETINGS = (
    ("Greek", "Συμφωνώ με τους όρους"),
    ("Ukrainian", "Я погоджуюся з умовами"),
    ("Hebrew", "אני מסכים לתנאים"),
    ("Japanese", "条件に同意します"),
    ("Hindi", "मैं शर्तों से सहमत हूँ"),
)


def consent() -> bytes:
    """One page whose title, bookmarks and a note hold text outside Latin-1, as UTF-16."""
    page = letterhead("Consent form", "Westhaven Clinic, Day Surgery", "Patient file 26-88213")
    page.paragraph(
        "I have been told, in a language I understand, what the operation is for, how it is done, what can go "
        "wrong, and what else could be done instead. I had time to think and to ask. I agree to the operation "
        "and to the anaesthesia. I may take this back at any time before it begins."
    )
    page.heading("Languages in which this text was explained")
    for language, _ in GREETINGS:
        page.line(f"- {language} (see the bookmark of that name)")
    page.extra = b"/Annots [9 0 R] "
    objects = document(
        [foot(page, "Westhaven Clinic  26-88213")], "Consent form", b"/Outlines 10 0 R"
    )
    objects[6] = b"<< /Title %s /Author %s /Producer (Outlast examples) >>" % (
        utf16("Consent form · Συγκατάθεση · 同意書"),
        utf16("Δρ. Ελένη Παπαδοπούλου"),
    )
    objects[9] = (
        b"<< /Type /Annot /Subtype /Text /Rect [500 700 520 720] /P 7 0 R /F 4 /Contents %s >>"
        % utf16("Explained by the interpreter, Мар’яна Коваль.")
    )
    last = 10 + len(GREETINGS)
    objects[10] = b"<< /Type /Outlines /First 11 0 R /Last %d 0 R /Count %d >>" % (
        last,
        len(GREETINGS),
    )
    for i, (language, text) in enumerate(GREETINGS):
        number = 11 + i
        around = b"/Prev %d 0 R " % (number - 1) if i else b""
        around += b"/Next %d 0 R " % (number + 1) if number < last else b""
        objects[number] = b"<< /Title %s /Parent 10 0 R %s/Dest [7 0 R /Fit] >>" % (
            utf16(f"{language}: {text}"),
            around,
        )
    return classic(objects)


def minutes() -> bytes:
    """Minutes corrected after they were first saved: an incremental update, three pages."""
    pages = []
    for number, topic in enumerate(("Opening and agenda", "Continuity plan", "Decisions"), 1):
        page = letterhead(
            f"Minutes, part {number}: {topic}", "Works Council", "Meeting of 3 November 2026"
        )
        for item in range(1, 6):
            page.heading(f"{number}.{item}")
            page.paragraph(
                f"Item {item} under {topic.lower()} was presented, discussed and recorded. The members took note "
                "of the figures of October; questions were answered in the meeting."
            )
        pages.append(foot(page, f"page {number} of 3"))
    original = classic(document(pages, "Minutes of 3 November 2026"))
    correction = Page()
    correction.ops = list(pages[2].ops)
    correction.put(
        MARGIN, 80, "Corrected on 5 November: in 3.2, read nine votes instead of eight.", 9, "F2"
    )
    changed = {12: correction.stream()}
    return updated(original, changed, 13)


def utf16(text: str) -> bytes:
    """A text string in UTF-16, as hexadecimal digits."""
    return b"<FEFF" + text.encode("utf-16-be").hex().upper().encode() + b">"


DOCUMENTS = {
    "contract": contract,
    "invoice": invoice,
    "notice": notice,
    "form": form,
    "consent": consent,
    "minutes": minutes,
}


def main(folder: Path) -> None:
    """Write all documents into a folder."""
    for name, make in DOCUMENTS.items():
        path = folder / f"{name}.pdf"
        path.write_bytes(make())
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
