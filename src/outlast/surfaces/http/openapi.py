"""/openapi.json (OpenAPI 3.1), made from the table of operations and the very structs that are decoded and sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from outlast import __version__
from outlast.surfaces.http.call import Call, Handler
from outlast.surfaces.http.headers import NDJSON
from outlast.surfaces.http.problems import MEDIA_TYPE, Problem
from outlast.surfaces.http.route import Parameter, Route

REF = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"\{([a-z]+)(?:\.\.\.)?\}")

_HEADERS = {
    "ETag": "The version, for If-Match and If-None-Match.",
    "Location": "Where to read it.",
    "Outlast-Receipt": "`accepted` or `published`.",
}
_IDEMPOTENCY = Parameter(
    name="Idempotency-Key",
    place="header",
    about="A key of the caller's choosing, 1 to 255 visible ASCII characters: the same key and body get the same"
    " answer again (`Idempotent-Replayed: true`), another body gets 422.",
    schema={"type": "string", "minLength": 1, "maxLength": 255},
)

Json = dict[str, Any]


def handler(routes: Sequence[Route]) -> Handler:
    """Serves the description of ``routes``."""

    @cache
    def body() -> bytes:
        return msgspec.json.encode(describe(routes))

    async def get(call: Call) -> Response:
        """GET /openapi.json"""
        return Response(
            body(),
            headers={"content-type": "application/json", "cache-control": "public, max-age=300"},
        )

    return get


def describe(routes: Sequence[Route]) -> Json:
    """The whole document."""
    types = [Problem, *_types(routes)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    of = {id(type_): schema for type_, schema in zip(types, schemas, strict=True)}
    paths: Json = {}
    for route in routes:
        path = _PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Outlast",
            "version": __version__,
            "description": "Documents get signed while providers fail, and anyone can verify it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "`ol_<id>_<secret>`"}
            },
        },
    }


def _types(routes: Sequence[Route]) -> list[Any]:
    seen: dict[int, Any] = {}
    for route in routes:
        for type_ in (route.body, *(answer.type for answer in route.answers.values())):
            if type_ is not None and not isinstance(type_, str):
                seen[id(type_)] = type_
    return list(seen.values())


def _operation(route: Route, of: dict[int, Json]) -> Json:
    operation: Json = {
        "operationId": route.id,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {**_answers(route, of), **_refusals(route, of)},
    }
    parameters = [_path_parameter(name) for name in _PATH_PARAMETER.findall(route.path)]
    given = (*route.parameters, _IDEMPOTENCY) if route.idempotent else route.parameters
    parameters += [_parameter(parameter) for parameter in given]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": _content(route.body, of),
        }
    if route.scope is None:
        operation["security"] = []
    elif route.scope:
        operation["description"] = f"Needs the scope `{route.scope}`."
    return operation


def _content(body: Any, of: dict[int, Json]) -> Json:
    if body == NDJSON:
        return {NDJSON: {"schema": {"type": "string"}, "example": '{"action":"login"}\n'}}
    if isinstance(body, str):
        binary: Json = {"schema": {"type": "string", "format": "binary"}}
        return {"application/pdf": binary, body: binary}
    return {"application/json": {"schema": of[id(body)]}}


def _answers(route: Route, of: dict[int, Json]) -> Json:
    answers: Json = {}
    for status, answer in route.answers.items():
        described: Json = {"description": answer.about}
        if answer.headers:
            described["headers"] = {
                name: {"description": _HEADERS[name], "schema": {"type": "string"}}
                for name in answer.headers
            }
        if answer.type is not None:
            described["content"] = {answer.media: {"schema": of[id(answer.type)]}}
        elif status != 304:
            described["content"] = {answer.media: {}}
        answers[str(status)] = described
    return answers


def _refusals(route: Route, of: dict[int, Json]) -> Json:
    statuses = {*route.refusals, 500, 503}
    if route.scope is not None:
        statuses |= {401, 403, 429}
    if "{" in route.path:
        statuses.add(404)
    if route.body is not None or route.idempotent or route.parameters:
        statuses |= {400, 422}
    if route.body is not None:
        statuses |= {404, 409, 413, 415}
    if route.method != "GET":
        statuses |= {400, 404, 409, 422, 502}
    content = {MEDIA_TYPE: {"schema": of[id(Problem)]}}
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted(statuses - route.answers.keys())
    }


def _path_parameter(name: str) -> Json:
    schema: Json = {"type": "integer", "minimum": 0} if name == "index" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(parameter: Parameter) -> Json:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.about,
        "schema": dict(parameter.schema),
    }
