"""What one operation of the API is: the single definition that both routing and /openapi.json are made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from outlast.surfaces.http.call import Handler

Method = Literal["GET", "POST", "PUT", "DELETE"]
ANY_KEY = ""
"""Scope of what every valid API key may do."""

_SEGMENT, _REST = r"[^/:\x00-\x1f]+", ".+"
_PARAMETER = re.compile(r"\{([a-z]+)(\.\.\.)?\}")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A query or header parameter. ``schema`` is its JSON schema."""

    name: str
    about: str
    place: Literal["query", "header"] = "query"
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A successful answer: JSON of ``type``, or bytes of ``media``."""

    type: Any = None
    media: str = "application/json"
    about: str = "Done."
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation. ``scope`` None: public. ``body`` is a struct for JSON, a media type for raw bytes; it may be
    left out where ``body_optional``. ``refusals`` are the statuses beside the usual ones that callers will meet."""

    method: Method
    path: str
    id: str
    tag: str
    summary: str
    scope: str | None
    handler: Handler
    answers: Mapping[int, Answer]
    body: Any = None
    body_optional: bool = False
    parameters: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = ()
    idempotent: bool = False


@dataclass(frozen=True)
class Match:
    """Where a path leads: its operations by method, and the values of its parameters."""

    methods: Mapping[str, Route]
    params: Mapping[str, str]


class Table:
    """All routes, found by path. Exact paths cost a dictionary look-up, others one regular expression each."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, Match] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = by_path.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"{route.method} {route.path} is defined twice")
            methods[route.method] = route
        for path, methods in by_path.items():
            if "{" in path:
                self._patterns.append((_pattern(path), methods))
            else:
                self._exact[path] = Match(methods, {})

    def find(self, path: str) -> Match | None:
        """The operations at a path."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        for pattern, methods in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                return Match(methods, match.groupdict())
        return None


def _pattern(path: str) -> re.Pattern[str]:
    """``{name}`` is one segment up to a colon, ``{name...}`` the rest of the path."""
    parts, at = [], 0
    for match in _PARAMETER.finditer(path):
        parts.append(re.escape(path[at : match.start()]))
        parts.append(f"(?P<{match[1]}>{_REST if match[2] else _SEGMENT})")
        at = match.end()
    return re.compile("".join([*parts, re.escape(path[at:])]))
