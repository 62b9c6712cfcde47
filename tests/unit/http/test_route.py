"""Paths lead to their operations, and nowhere else."""

from __future__ import annotations

import pytest

from outlast.surfaces.http.route import Table
from outlast.surfaces.http.table import ROUTES

TABLE = Table(ROUTES)


@pytest.mark.parametrize(
    ("method", "path", "id_", "params"),
    [
        ("POST", "/v1/signature-requests", "requestSignature", {}),
        ("POST", "/v1/signature-requests:bulk", "requestSignatures", {}),
        ("GET", "/v1/signature-requests/abc", "getSignatureRequest", {"id": "abc"}),
        ("GET", "/v1/signature-requests/abc/file", "getSignedFile", {"id": "abc"}),
        ("GET", "/v1/jobs/7", "getJob", {"id": "7"}),
        ("POST", "/v1/jobs/7:replay", "replayJob", {"id": "7"}),
        ("POST", "/v1/keys/a.b-c:disable", "disableKey", {"name": "a.b-c"}),
        ("PUT", "/v1/keys/a/bindings/p", "enrolKey", {"name": "a", "provider": "p"}),
        ("GET", "/log/tile/0/x001/234.p/5", "getTile", {"path": "0/x001/234.p/5"}),
    ],
)
def test_found(method: str, path: str, id_: str, params: dict[str, str]) -> None:
    """Exact paths, parameters, verbs after a colon, and the rest of a path."""
    match = TABLE.find(path)
    assert match is not None
    assert match.methods[method].id == id_
    assert match.params == params


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1", "/v1/documents/", "/v1/jobs/7:explode", "/v1/jobs/7/8", "/v1/keys/a/b:enable",
     "/v1/signature-requests/a:b", "//v1/status", "/log/tile/", "/v1/jobs/\n", "/metrics/x"],
)  # fmt: skip
def test_not_found(path: str) -> None:
    """Nothing else is reachable."""
    assert TABLE.find(path) is None


def test_every_operation_is_complete() -> None:
    """Ids are unique; everything but health and the description needs a key; every POST that commits is
    idempotent by key or by nature."""
    assert len({route.id for route in ROUTES}) == len(ROUTES)
    assert {r.path for r in ROUTES if r.scope is None} == {
        "/livez",
        "/readyz",
        "/openapi.json",
        "/v1/links/{link}",  # the link itself says who may
    }
    assert not {r.id for r in ROUTES if r.method == "POST" and not r.idempotent}


def test_one_method_of_a_path_is_defined_once() -> None:
    """Defining an operation twice is an error at start."""
    with pytest.raises(ValueError, match="twice"):
        Table([ROUTES[0], ROUTES[0]])
