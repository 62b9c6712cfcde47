"""Writes errors.md: every error code in the program, with its kind, HTTP status and words, read from the source.

python docs/reference/make_errors.py          writes the page
python docs/reference/make_errors.py --check  says whether a code is missing from it
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
PAGE = pathlib.Path(__file__).parent / "errors.md"
KINDS = {name: name for name in ("Refused", "Unavailable", "Unknown", "Conflict", "Corrupt")}
KINDS["_reauth"] = "Refused"  # core/access.py
SOURCES = ("core", "ports", "signing", "operations", "adapters", "wiring", "surfaces")

INTRODUCTION = """\
# Errors

Every error is RFC 9457 problem details (`application/problem+json`):

```json
{"type":"tag:outlast.invalid,2026:key-disabled","title":"In conflict with the present state","status":409,
 "detail":"signing key 'board' is disabled","code":"key-disabled","retry":"never",
 "hint":"Enable it with `outlast keys enable`, or name another key.","request_id":"…"}
```

`code` is what programs compare; it never changes its meaning. `hint` is for people and says what to do next.
`retry` tells a program what to do:

| retry | do |
|---|---|
| `never` | nothing: the answer will not change by itself |
| `same` | the same request again, at once, with the same Idempotency-Key |
| `later` | the same request after `retry_after_s` (also in `Retry-After`) |
| `elsewhere` | the same request at another site |
| `reauth` | the same request with other credentials |

There are five kinds, and what a kind says of your request holds for each of its codes:

| kind | it happened? | HTTP status, mostly |
|---|---|---|
| Refused | no; the request is wrong or policy forbids it | 422; 404 where the code ends in `not-found`; 401 with `reauth` |
| Unavailable | no, certainly; later it may | 503 with `Retry-After` |
| Unknown | perhaps; repeat it with the same Idempotency-Key | 502 |
| Conflict | no; somebody else wrote first | 409 |
| Corrupt | stored bytes failed their check; an operator must look | 500 |

Beside these, `internal-error` (500) is a fault of the program; its `request_id` finds it in the site's log.

## Codes

Made from the source by `docs/reference/make_errors.py`. `…` stands for what depends on the case. Not every code
reaches an HTTP caller: some are the command line's, the appliance's, or are handled inside.

"""


def main() -> int:
    """Write or check the page."""
    rows = collect()
    if "--check" in sys.argv:
        text = PAGE.read_text()
        missing = sorted({code for code, _ in rows if f"| `{code}` |" not in text})
        print("\n".join(missing))
        return 1 if missing else 0
    PAGE.write_text(INTRODUCTION + "\n".join(_table(rows)) + "\n")
    return 0


def collect() -> dict[tuple[str, str], str]:
    """Words by code and kind."""
    found: dict[tuple[str, str], str] = {}
    for source in SOURCES:
        for path in sorted((ROOT / "src" / "outlast" / source).rglob("*.py")):
            for code, kind, words in _errors(ast.parse(path.read_text())):
                found.setdefault((code, kind), words)
    return found


def _errors(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        code = node.args[0]
        if isinstance(code, ast.Constant) and isinstance(code.value, str) and name in KINDS:
            yield code.value, KINDS[name], _words(node.args[1])


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    return "…"


def _table(rows: dict[tuple[str, str], str]) -> Iterator[str]:
    from outlast.core import errors
    from outlast.surfaces.http.problems import status_of

    yield "| code | kind | status | says |"
    yield "|---|---|---|---|"
    for (code, kind), words in sorted(rows.items()):
        status = 401 if code.startswith("token-") else status_of(getattr(errors, kind)(code, ""))
        yield f"| `{code}` | {kind} | {status} | {words.replace('|', '/')} |"


if __name__ == "__main__":
    sys.exit(main())
