"""The appliance's application, called directly: who may do what, bounds, repeats, problems, the audit."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from outlast.core.asymmetric import generate_private_key, signature_is_valid, spki_der
from outlast.core.clock import ManualClock
from outlast.core.errors import Refused
from outlast.core.pki import Authority, certificate_pem, issue, make_ca
from outlast.ports.keys import MAX_TBS_BYTES
from outlast.ports.keys_http import MAX_BODY_BYTES
from outlast.surfaces.signer import messages
from outlast.surfaces.signer.access import AccessList, ClientRule
from outlast.surfaces.signer.app import SignerApp
from outlast.surfaces.signer.audit import AUDIT_LOGGER
from outlast.testing.keys import FakeSigner, Fault

pytestmark = pytest.mark.anyio

CLOCK = ManualClock()


def client_pem(ca: Authority, name: str) -> str:
    """A client certificate."""
    key = generate_private_key("ecdsa-p256-sha256")
    return certificate_pem(issue(ca, name, spki_der(key), "client", CLOCK)).decode()


@pytest.fixture(scope="module")
def ca() -> Authority:
    """The clients' CA."""
    return make_ca("Clients", "ecdsa-p256-sha256", CLOCK)


@pytest.fixture(scope="module")
def certificate(ca: Authority) -> str:
    """The certificate of site-a."""
    return client_pem(ca, "site-a")


class Caller:
    """Makes requests to an app as uvicorn would."""

    def __init__(self, app: SignerApp, certificate: str) -> None:
        self.app = app
        self.certificate = certificate

    async def __call__(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        receive: Callable[[], Any] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and the decoded body."""
        sent: list[dict[str, Any]] = []

        async def whole_body() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "raw_path": path.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()],
            "extensions": {"tls": {"client_cert_chain": (self.certificate,)}},
        }
        if not self.certificate:
            scope["extensions"] = {}
        await self.app(scope, receive or whole_body, send)
        answer_headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        answer = sent[1]["body"]
        if "json" in answer_headers["content-type"]:
            answer = json.loads(answer)
        return sent[0]["status"], answer_headers, answer

    async def sign(
        self,
        tbs: bytes = b"tbs",
        *,
        key: str = "ed25519",
        algorithm: str = "ed25519",
        operation: str = "op/1/1",
    ) -> tuple[int, dict[str, str], Any]:
        """POST /v1/signer/sign."""
        body = {"key": key, "algorithm": algorithm, "tbs": base64.b64encode(tbs).decode()}
        headers = {"idempotency-key": operation}
        return await self("POST", "/v1/signer/sign", json.dumps(body).encode(), headers=headers)


@pytest.fixture(scope="module")
def keys() -> FakeSigner:
    """Keys of all algorithms; RSA takes a while to make."""
    return FakeSigner.with_all_algorithms()


@pytest.fixture
def fake(keys: FakeSigner) -> FakeSigner:
    """The same, with no memory of earlier tests."""
    keys.always(None)
    keys.signed.clear()
    keys.down = False
    keys.calls = 0
    return keys


@pytest.fixture
def call(fake: FakeSigner, certificate: str) -> Caller:
    """An app whose client site-a may use the Ed25519 and P-256 keys."""
    rule = ClientRule(
        name="a", common_name="site-a", keys=("ed25519", "ecdsa-p256-sha256", "not/there")
    )
    return Caller(SignerApp(fake, (rule,), CLOCK, sign_timeout_s=0.2), certificate)


async def test_signs(call: Caller, fake: FakeSigner) -> None:
    """A signature comes back in base64, over the bytes asked for."""
    status, _, answer = await call.sign(b"hello")
    assert status == 200
    info = await fake.describe("ed25519")
    signature = base64.b64decode(answer["signature"])
    assert signature_is_valid(info.spki_der, "ed25519", tbs=b"hello", signature=signature)


async def test_repeats_give_the_same_answer(call: Caller, fake: FakeSigner) -> None:
    """One operation is signed once, also when its repeats arrive together; others are theirs."""
    answers: list[Any] = []

    async def one() -> None:
        answers.append(await call.sign(operation="same/1/1"))

    fake.delay_s = 0.02
    try:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
        await one()
    finally:
        fake.delay_s = 0.0
    assert len(fake.signed) == 1
    assert all(answer == answers[0] for answer in answers)
    await call.sign(operation="other/1/1")
    assert len(fake.signed) == 2


async def test_an_operation_is_one_request(call: Caller) -> None:
    """The same Idempotency-Key over other bytes is refused."""
    await call.sign(b"one", operation="reused/1/1")
    status, _, problem = await call.sign(b"two", operation="reused/1/1")
    assert (status, problem["code"]) == (422, "idempotency-key-reused")


async def test_a_failure_is_not_remembered(call: Caller, fake: FakeSigner) -> None:
    """After a failure, the repeat is tried for itself; waiters do not inherit the failure."""
    fake.plan(Fault(kind="fail-before"))
    status, _, problem = await call.sign(operation="again/1/1")
    assert (status, problem["code"], problem["retry"]) == (503, "provider-unreachable", "later")
    status, _, _ = await call.sign(operation="again/1/1")
    assert status == 200


async def test_memory_is_bounded(fake: FakeSigner, certificate: str) -> None:
    """The oldest operation is forgotten first, and then signed again."""
    rule = ClientRule(name="a", common_name="site-a", keys=("*",))
    call = Caller(SignerApp(fake, (rule,), CLOCK, remembered_operations=3), certificate)
    for number in range(5):
        await call.sign(operation=f"op/{number}/1")
    await call.sign(operation="op/4/1")
    assert len(fake.signed) == 5
    await call.sign(operation="op/0/1")
    assert len(fake.signed) == 6


async def test_who_may_sign_with_what(call: Caller, ca: Authority) -> None:
    """No certificate, an unknown client, and a key outside the client's rule are each 403."""
    status, _, problem = await call.sign(key="rsa-pkcs1-sha256", algorithm="rsa-pkcs1-sha256")
    assert (status, problem["code"]) == (403, "key-not-allowed")
    status, _, problem = await call("GET", "/v1/signer/keys/rsa-pkcs1-sha256")
    assert (status, problem["code"]) == (403, "key-not-allowed")
    for certificate in ("", client_pem(ca, "site-b")):
        call.certificate = certificate
        status, _, problem = await call.sign()
        assert (status, problem["code"]) == (403, "client-not-allowed")


async def test_key_names_are_unescaped_once(call: Caller) -> None:
    """An escaped slash stays within the name; keys are described to who may use them."""
    status, _, answer = await call("GET", "/v1/signer/keys/ed25519")
    assert (status, answer["algorithm"]) == (200, "ed25519")
    status, _, problem = await call("GET", "/v1/signer/keys/not%2Fthere")
    assert (status, problem["code"]) == (404, "key-not-found")


async def test_bad_requests(call: Caller) -> None:
    """Noise, missing fields, unknown fields, no operation, other methods and paths: a problem each, never a 500."""
    sign = "/v1/signer/sign"
    key = {"idempotency-key": "x"}
    good = {"key": "ed25519", "algorithm": "ed25519", "tbs": "eA=="}
    cases = [
        (400, "request-invalid", await call("POST", sign, b"noise", headers=key)),
        (400, "request-invalid", await call("POST", sign, b"{}", headers=key)),
        (400, "request-invalid", await call("POST", sign, b"[" * 5000, headers=key)),
        (
            400,
            "request-invalid",
            await call("POST", sign, json.dumps(good | {"x": 1}).encode(), headers=key),
        ),
        (
            400,
            "request-invalid",
            await call("POST", sign, json.dumps(good | {"tbs": "?"}).encode(), headers=key),
        ),
        (
            400,
            "request-invalid",
            await call("POST", sign, json.dumps(good | {"algorithm": "md5"}).encode(), headers=key),
        ),
        (400, "idempotency-key-missing", await call("POST", sign, json.dumps(good).encode())),
        (400, "idempotency-key-missing", await call.sign(operation="x" * 300)),
        (400, "tbs-empty", await call.sign(b"")),
        (413, "tbs-too-large", await call.sign(b"x" * (MAX_TBS_BYTES + 1))),
        (422, "key-algorithm-mismatch", await call.sign(algorithm="ecdsa-p256-sha256")),
        (405, "method-not-allowed", await call("GET", sign)),
        (405, "method-not-allowed", await call("DELETE", "/v1/signer/keys/ed25519")),
        (404, "not-found", await call("GET", "/")),
        (404, "not-found", await call("GET", "/v1/signer/sign/")),
    ]
    for status, code, (actual, headers, problem) in cases:
        assert (actual, problem["code"]) == (status, code)
        assert headers["content-type"] == "application/problem+json"
        assert problem["status"] == status


async def test_bodies_are_bounded(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A declared length is refused unread, an undeclared one once it is passed; a slow or broken body ends too."""

    async def never() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    async def slow() -> dict[str, Any]:
        await anyio.sleep_forever()
        return {}

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 0.05)
    declared = {"content-length": str(MAX_BODY_BYTES + 1)}
    sign = "/v1/signer/sign"
    cases = [
        (413, "body-too-large", await call("POST", sign, headers=declared, receive=never)),
        (413, "body-too-large", await call("POST", sign, receive=endless)),
        (408, "body-too-slow", await call("POST", sign, receive=slow)),
        (400, "body-incomplete", await call("POST", sign, receive=gone)),
    ]
    for status, code, (actual, _, problem) in cases:
        assert (actual, problem["code"]) == (status, code)


async def test_keystore_failures(call: Caller, fake: FakeSigner) -> None:
    """Throttling is 429 with Retry-After, a lost answer 504, a hanging keystore 504 in time, a crash 504."""
    fake.plan(
        Fault(kind="throttle", retry_after_s=2.5), Fault(kind="fail-after"), Fault(kind="hang")
    )
    status, headers, problem = await call.sign(operation="a")
    assert (status, headers["retry-after"], problem["retry_after_s"]) == (429, "3", 2.5)
    status, _, problem = await call.sign(operation="b")
    assert (status, problem["code"]) == (504, "provider-answer-lost")
    status, _, problem = await call.sign(operation="c")
    assert (status, problem["code"]) == (504, "provider-answer-lost")
    fake.down = True
    status, _, problem = await call("GET", "/readyz")
    assert (status, problem["code"]) == (503, "provider-unreachable")
    status, _, _ = await call("GET", "/livez")
    assert status == 200


async def test_unexpected_failure_says_nothing(
    call: Caller,
    fake: FakeSigner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug is 504 (nobody knows what was signed), with nothing of it in the answer and all of it in the log."""

    async def broken(_request: object) -> bytes:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(fake, "sign", broken)
    status, _, problem = await call.sign()
    assert (status, problem["code"]) == (504, "internal-error")
    assert "secret detail" not in json.dumps(problem)
    assert "secret detail" in caplog.text


async def test_too_many_at_once(fake: FakeSigner, certificate: str) -> None:
    """Beyond max_in_flight, requests are turned away with Retry-After, not queued."""
    rule = ClientRule(name="a", common_name="site-a", keys=("*",))
    app = SignerApp(fake, (rule,), CLOCK, max_in_flight=2, sign_timeout_s=0.2)
    call = Caller(app, certificate)
    fake.always(Fault(kind="hang"))
    statuses: list[tuple[int, str | None]] = []

    async def one(number: int) -> None:
        status, headers, _ = await call.sign(operation=f"many/{number}")
        statuses.append((status, headers.get("retry-after")))

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, number)
    assert sorted(statuses, key=str) == [(503, "1")] * 3 + [(504, None)] * 2


async def test_every_request_is_audited(
    call: Caller, fake: FakeSigner, caplog: pytest.LogCaptureFixture
) -> None:
    """One JSON line per request, with its outcome, digests and client, and without the bytes."""
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    fake.plan(None, Fault(kind="fail-before"))
    await call.sign(b"very private", operation="audit/1/1")
    await call.sign(b"very private", operation="audit/1/1")
    await call.sign(operation="audit/2/1")
    await call.sign(key="rsa-pkcs1-sha256", operation="audit/3/1")
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == AUDIT_LOGGER]
    assert [line["outcome"] for line in lines] == [
        "signed",
        "repeated",
        "provider-unreachable",
        "key-not-allowed",
    ]
    assert lines[0]["client"] == "a"
    assert len(lines[0]["client_fingerprint_sha256"]) == 64
    assert lines[0]["signature_sha256"] == lines[1]["signature_sha256"] != ""
    assert "very private" not in caplog.text


def test_rules_that_make_no_sense() -> None:
    """A client is named one way, once."""
    bad = [
        (ClientRule(name="a", keys=()),),
        (ClientRule(name="a", keys=(), common_name="x", fingerprint_sha256="0" * 64),),
        (ClientRule(name="a", keys=(), fingerprint_sha256="zz"),),
        (
            ClientRule(name="a", keys=(), common_name="x"),
            ClientRule(name="b", keys=(), common_name="x"),
        ),
    ]
    for rules in bad:
        with pytest.raises(Refused, match="client-rule-invalid"):
            AccessList(rules)


async def test_clients_by_fingerprint(fake: FakeSigner, certificate: str, ca: Authority) -> None:
    """A fingerprint, colons and capitals or not, names one certificate and no other of the same subject."""

    digest = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256())
    rule = ClientRule(name="a", fingerprint_sha256=digest.hex(":").upper(), keys=("ed25519",))
    call = Caller(SignerApp(fake, (rule,), CLOCK), certificate)
    assert (await call.sign())[0] == 200
    call.certificate = client_pem(ca, "site-a")
    assert (await call.sign())[0] == 403
