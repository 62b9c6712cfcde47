"""Cedar text taken apart into its policies, each with its place.

Cedar's parser names no position through its Python binding, so the text is split here first: a person who made a
typing error is told file and line. Refuses what would make a decision unexplainable: a policy without an ``@id``,
two with the same one, templates. Bounded in size and number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import cedarpy
import msgspec

from outlast.core.errors import Refused

MAX_POLICY_BYTES = 256 * 1024
"""Most text of one policy set."""

MAX_POLICIES = 1_000
"""Most policies of one set."""


class Statement(msgspec.Struct, frozen=True):
    """One policy: its ``@id``, its file, the line it starts on, its text."""

    id: str
    file: str
    line: int
    text: str

    def refused(self, why: str) -> Refused:
        """The refusal that names this policy's place."""
        named = f" (policy {self.id!r})" if self.id else ""
        return Refused(
            "policy-invalid",
            f"{self.file}:{self.line}{named}: {why}",
            hint="Nothing was changed; correct the policy and load it again.",
            scope=self.file,
        )


def parse_statements(texts: Mapping[str, str]) -> tuple[Statement, ...]:
    """Every policy of every file, parsed, in order of file name and place.

    Raises Refused ``policy-invalid`` at the first that does not parse, has no ``@id``, repeats one, or is a
    template; and when the bounds are exceeded.
    """
    if sum(len(text.encode()) for text in texts.values()) > MAX_POLICY_BYTES:
        raise Refused("policy-invalid", f"the policies exceed {MAX_POLICY_BYTES} bytes")
    found: dict[str, Statement] = {}
    for file in sorted(texts):
        for line, text in split(texts[file]):
            statement = _named(Statement("", file, line, text))
            other = found.setdefault(statement.id, statement)
            if other is not statement:
                raise statement.refused(f"its id is taken by {other.file}:{other.line}")
            if len(found) > MAX_POLICIES:
                raise statement.refused(f"more than {MAX_POLICIES} policies")
    return tuple(found.values())


def split(text: str) -> Iterator[tuple[int, str]]:
    """Statements of Cedar text with the line (from 1) each starts on; comments outside them are dropped.

    A statement ends at a semicolon outside strings and comments (Cedar grammar: ``Policy ... ';'``).
    """
    start, line, start_line, at = -1, 1, 1, 0
    while at < len(text):
        char = text[at]
        if text.startswith("//", at):
            at = _end_of_line(text, at)
            continue
        if start < 0 and not char.isspace():
            start, start_line = at, line
        if char == '"':
            end = _end_of_string(text, at)
            line += text.count("\n", at, end)
            at = end
            continue
        if char == ";":
            yield start_line, text[start : at + 1]
            start = -1
        line += char == "\n"
        at += 1
    if start >= 0:
        yield start_line, text[start:]


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _end_of_string(text: str, at: int) -> int:
    """Just after the string that starts at ``at``."""
    at += 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return min(at + 1, len(text))


def _named(statement: Statement) -> Statement:
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(statement.text))
    except ValueError as error:
        raise statement.refused(str(error)) from None
    if parsed.get("templates"):
        raise statement.refused("templates are not supported")
    policies = list(parsed.get("staticPolicies", {}).values())
    name = policies[0].get("annotations", {}).get("id") if len(policies) == 1 else None
    if not name:
        raise statement.refused('it needs an @id("..."): decisions are put on record by it')
    return Statement(name, statement.file, statement.line, statement.text)
