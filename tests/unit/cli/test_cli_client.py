"""The API's client: errors as the site words them, and repeating only what may be repeated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
import pytest

from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.surfaces.cli import client
from outlast.surfaces.cli.client import Api


class Answer(msgspec.Struct):
    """What the tests ask for."""

    ok: bool


def problem(status: int, **members: Any) -> httpx2.Response:
    """Problem details as a site sends them."""
    body = {"code": "some-code", "status": status, "detail": "so it is", **members}
    return httpx2.Response(status, content=json.dumps(body).encode())


GOOD = httpx2.Response(200, content=b'{"ok": true}')


class Site:
    """Gives prepared answers (or raises them), and remembers what it was asked."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def call(self, work: Callable[[Api], Any]) -> Any:
        """Run ``work`` with a client of it."""

        async def run() -> Any:
            transport = httpx2.MockTransport(self)
            async with httpx2.AsyncClient(transport=transport, base_url="http://site") as http:
                return await work(Api(http, "the site"))

        return asyncio.run(run())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait."""
    monkeypatch.setattr(client, "PAUSE_S", 0.001)


def get(api: Api) -> Any:
    """A question."""
    return api.get("/v1/x", Answer)


def send(api: Api) -> Any:
    """A command without an idempotency key."""
    return api.send("POST", "/v1/x", {}, Answer)


def send_once(api: Api) -> Any:
    """One with a key."""
    return api.send("POST", "/v1/x", {}, Answer, key="k")


@pytest.mark.parametrize(
    ("status", "members", "kind"),
    [
        (404, {}, Refused),
        (422, {"retry": "never"}, Refused),
        (409, {"retry": "never"}, Conflict),
        (412, {"retry": "never"}, Conflict),
        (429, {"retry": "later", "retry_after_s": 60}, Unavailable),
        (503, {"retry": "later", "retry_after_s": 60}, Unavailable),
        (502, {"retry": "elsewhere"}, Unknown),
        (500, {"retry": "never"}, Corrupt),
    ],
)
def test_errors_keep_their_words(
    status: int, members: dict[str, Any], kind: type[OutlastError]
) -> None:
    """Code, detail, hint and retry class are the site's, the kind of error fits them."""
    site = Site(problem(status, hint="Do this.", **members))
    with pytest.raises(kind) as error:
        site.call(get)
    assert (error.value.code, error.value.message, error.value.hint) == (
        "some-code",
        "so it is",
        "Do this.",
    )
    assert len(site.asked) == 1


def test_what_may_pass_is_tried_again() -> None:
    """A question is repeated after the site's own pause, or a short one."""
    site = Site(problem(503, retry="later", retry_after_s=0.001), httpx2.ConnectError("no"), GOOD)
    assert site.call(get).ok
    assert len(site.asked) == 3


def test_a_site_started_again_is_found_with_its_new_token() -> None:
    """A site that was killed revokes what it left behind: the token is read anew, and the work goes on."""
    revoked = problem(401, code="token-revoked", retry="reauth")
    gone = [httpx2.ConnectError("killed")] * (client.TRIES + 2)
    site = Site(GOOD, *gone, revoked, revoked, GOOD)

    def renew(http: httpx2.AsyncClient) -> None:
        http.headers["authorization"] = f"Bearer {len(site.asked)}"

    async def run() -> Any:
        async with httpx2.AsyncClient(
            transport=httpx2.MockTransport(site), base_url="http://site"
        ) as http:
            api = Api(http, "the site", renew=renew)
            api.patience_s = 30.0
            await get(api)
            return await send_once(api)

    assert asyncio.run(run()).ok
    assert site.asked[-1].headers["authorization"] == f"Bearer {len(site.asked) - 1}"


def test_a_refused_token_is_final_elsewhere() -> None:
    """Nobody renews the token of a site that --url names."""
    site = Site(problem(401, code="token-revoked", retry="reauth"))
    with pytest.raises(Refused):
        site.call(get)


def test_patience_is_for_sites_that_were_there() -> None:
    """One that has answered is waited for, beyond the tries, and that is said once; a wrong address is not."""
    said: list[str] = []
    gone = [httpx2.ConnectError("killed")] * (client.TRIES + 3)
    site = Site(GOOD, *gone, GOOD)

    async def patient(api: Api) -> Any:
        api.patience_s = 30.0
        api._notice = said.append
        await get(api)
        return await get(api)

    assert site.call(patient).ok
    assert len(said) == 1

    wrong = Site(*gone)
    with pytest.raises(Unavailable):
        wrong.call(patient)
    assert len(wrong.asked) == client.TRIES


def test_not_for_ever() -> None:
    """After so many tries the last answer stands."""
    site = Site(*[problem(503, retry="later", retry_after_s=0.001)] * client.TRIES)
    with pytest.raises(Unavailable):
        site.call(get)
    assert not site.answers


def test_a_command_is_repeated_only_with_its_key() -> None:
    """A lost answer to a POST without a key may have been done: it is not sent again."""
    lost = httpx2.ReadError("cut")
    site = Site(lost, GOOD)
    with pytest.raises(Unknown):
        site.call(send)
    assert len(site.asked) == 1
    site = Site(lost, GOOD)
    assert site.call(send_once).ok
    assert [r.headers["idempotency-key"] for r in site.asked] == ["k", "k"]


def test_an_answer_of_something_else() -> None:
    """Pages of a proxy, and answers of another program, are told apart from a site's."""
    with pytest.raises(Refused) as refused:
        Site(httpx2.Response(404, content=b"<html>")).call(get)
    assert refused.value.code == "not-an-outlast-site"
    with pytest.raises(Refused) as refused:
        Site(httpx2.Response(200, content=b"<html>")).call(get)
    assert refused.value.code == "answer-malformed"


@pytest.mark.parametrize(
    ("code", "named"), [("token-invalid", "OUTLAST_TOKEN"), ("not-a-pdf", "--cms"), ("other", "x")]
)
def test_hints_say_what_to_do_here(code: str, named: str) -> None:
    """What the site says about HTTP headers is said in terms of this command line; other hints stay."""
    site = Site(problem(401, code=code, hint="x: send `Authorization: Bearer`", retry="reauth"))
    with pytest.raises(Refused) as caught:
        site.call(lambda api: api.get("/v1/jobs", Answer))
    assert named in caught.value.hint
    assert ("Authorization" in caught.value.hint) == (code == "other")
