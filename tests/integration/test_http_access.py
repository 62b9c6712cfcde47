"""Who may call: keys made, limited, expired and revoked over HTTP; scopes; what is public."""

from __future__ import annotations

from typing import Any

import pytest

from outlast.surfaces.http.table import ROUTES

pytestmark = pytest.mark.anyio


async def test_without_a_key_nothing_is_told(http_site: Any) -> None:
    """Every operation but the public ones answers 401 to a caller without a key, before it looks at anything; what is
    no link of ours opens nothing."""
    anybody = http_site.client_of(None)
    public = {"/livez", "/readyz", "/openapi.json"}
    for route in ROUTES:
        path = route.path.replace("...", "").replace("{", "").replace("}", "")
        answer = await anybody.request(route.method, path)
        if route.path in public:
            assert answer.status_code == 200, route.path
            continue
        if route.scope is None:  # the link itself is the key
            assert (answer.status_code, answer.json()["code"]) == (403, "link-invalid")
            continue
        assert answer.status_code == 401, route.path
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["retry"] == "reauth"


async def test_every_scope_is_asked_for(http_site: Any) -> None:
    """A key without the scope an operation needs gets 403, and is told which scope that is."""
    weak = await http_site.key("documents:read")
    for route in ROUTES:
        if route.scope in (None, "", "documents:read"):
            continue
        path = route.path.replace("...", "").replace("{", "").replace("}", "")
        answer = await weak.request(route.method, path)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing"), route.path
        assert answer.json()["scope"] == route.scope
        assert route.scope in answer.json()["hint"]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        "Bearer ol_" + "0" * 32 + "_" + "A" * 43,
        "Bearer ol_" + "0" * 5000,
    ],
)
async def test_tokens_that_are_none(http_site: Any, header: str) -> None:
    """What is not a token of this site is refused with a challenge, whatever it looks like."""
    anybody = http_site.client_of(None)
    answer = await anybody.get("/v1/status", headers={"authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "token-invalid")
    assert "invalid_token" in answer.headers["www-authenticate"]


async def test_right_id_wrong_secret(http_site: Any) -> None:
    """A known key id with another secret opens nothing."""
    wrong = http_site.token[:-1] + ("A" if http_site.token[-1] != "A" else "B")
    answer = await http_site.client_of(wrong).get("/v1/status")
    assert answer.json()["code"] == "token-invalid"


async def test_key_is_made_used_and_revoked(http_site: Any) -> None:
    """A key works at once, is listed without its secret, and opens nothing from its revocation on."""
    made = await http_site.client.post(
        "/v1/api-keys", json={"scopes": ["signatures:read"], "title": "reader"}
    )
    assert made.status_code == 201, made.text
    key = made.json()
    reader = http_site.client_of(key["token"])
    assert (await reader.get("/v1/signature-requests")).status_code == 200
    listed = await http_site.client.get("/v1/api-keys")
    mine = next(item for item in listed.json()["items"] if item["id"] == key["id"])
    assert (mine["status"], mine["title"]) == ("active", "reader")
    assert key["token"] not in listed.text
    revoked = await http_site.client.delete(f"/v1/api-keys/{key['id']}")
    assert revoked.status_code == 200
    answer = await reader.get("/v1/signature-requests")
    assert (answer.status_code, answer.json()["code"]) == (401, "token-revoked")
    assert (await http_site.client.delete(f"/v1/api-keys/{key['id']}")).status_code == 200


async def test_key_replayed_shows_no_secret(http_site: Any) -> None:
    """Repeating the creation with its Idempotency-Key names the same key, but its token was shown once."""
    body, headers = {"scopes": ["log:read"]}, {"idempotency-key": "make-a-key"}
    first = await http_site.client.post("/v1/api-keys", json=body, headers=headers)
    again = await http_site.client.post("/v1/api-keys", json=body, headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert first.json()["token"]
    assert again.json()["token"] is None
    assert again.status_code == 201


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"scopes": ["root"]}, "unknown-scope"),
        ({"scopes": []}, "request-malformed"),
        ({"scopes": ["operate"], "extra": 1}, "request-malformed"),
        ({"scopes": ["operate"], "expires_in_s": -1}, "request-malformed"),
        ({"scopes": ["operate"], "per_s": 1e12}, "request-malformed"),
    ],
)
async def test_keys_that_cannot_be(http_site: Any, body: dict[str, Any], code: str) -> None:
    """A key with an unknown scope, none, or limits that make no sense is refused."""
    answer = await http_site.client.post("/v1/api-keys", json=body)
    assert answer.json()["code"] == code


async def test_key_with_a_rate(http_site: Any) -> None:
    """A key beyond its own rate gets 429 and Retry-After; other keys are not held up."""
    slow = await http_site.key("signatures:read", per_s=2.0)
    answers = [await slow.get("/v1/status") for _ in range(6)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert limited[0].json()["code"] == "rate-limited"
    assert int(limited[0].headers["retry-after"]) >= 1
    assert (await http_site.client.get("/v1/status")).status_code == 200
