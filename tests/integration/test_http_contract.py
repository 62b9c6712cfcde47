"""/openapi.json against the running API: schemathesis makes up requests from it and checks every answer."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from outlast import __version__
from outlast.surfaces.http.openapi import describe
from outlast.surfaces.http.table import ROUTES

EXAMPLES = 8
"""Made-up requests of each operation and kind (valid, invalid): keeps the run near half a minute."""
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
LEFT_OUT = ("followEvents",)
"""Answers without end."""
BREAKING = ("putMode", "disableProvider", "pauseJobKind", "revokeApiKey", "disableKey")
"""Operations that would stop the others when they succeed; tried with a key that may not."""


@schemathesis.serializer("application/x-ndjson")
def lines(_ctx: Any, value: Any) -> bytes:
    """Lines of JSON are text that is sent as it is; what is no text goes as one line."""
    return value.encode(errors="replace") if isinstance(value, str) else json.dumps(value).encode()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    free_ports: Callable[[], int],
    running_site: Any,
) -> Iterator[tuple[str, str]]:
    """Address and token of a site that runs in a thread of its own: schemathesis is not async."""
    folder: Path = tmp_path_factory.mktemp("contract")
    ready, address = threading.Event(), []

    async def main() -> None:
        async with running_site(folder, free_ports()) as site:
            stop = anyio.Event()
            address.extend([site.url, site.token, stop, anyio.lowlevel.current_token()])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=anyio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(30), "the site did not start"
    yield address[0], address[1]
    anyio.from_thread.run_sync(address[2].set, token=address[3])
    thread.join(30)


def test_description_is_openapi_31() -> None:
    """The document has every operation once, and every schema it refers to."""
    document = describe(ROUTES)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == __version__
    ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert sorted(ids) == sorted(route.id for route in ROUTES)
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description") or "enum" in schema, f"{name} is not described"


@pytest.mark.slow
def test_answers_are_as_described(served: tuple[str, str]) -> None:
    """Whatever is sent, valid or not, no answer is a server error or other than /openapi.json says."""
    url, token = served
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    headers = {"Authorization": f"Bearer {token}"}
    tried, statuses = 0, Counter[int]()
    for result in schema.get_all_operations():
        operation = result.ok()
        id_ = operation.definition.raw["operationId"]
        if id_ in LEFT_OUT:
            continue
        for mode in GenerationMode:
            _try(operation, mode, {} if id_ in BREAKING else headers, statuses)
        tried += 1
    assert tried == len(ROUTES) - 1 - len(LEFT_OUT)  # all but the description itself
    assert {200, 400, 401, 404, 422} <= statuses.keys(), statuses


def _try(
    operation: Any, mode: GenerationMode, headers: dict[str, str], statuses: Counter[int]
) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        answer = case.call(headers=headers, timeout=10)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    try:
        run()
    except Unsatisfiable:  # nothing in this operation can be made invalid
        assert mode is GenerationMode.NEGATIVE
