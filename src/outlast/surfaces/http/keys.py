"""Signing keys: which there are, where they are enrolled, and whether they may sign."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.responses import Response

from outlast.core.commit import Receipt
from outlast.core.errors import Refused
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, json_answer
from outlast.surfaces.http.wire import Accepted, BindingAsk, EnrolAsk, KeyPage

MAX_CHAIN = 10
"""Certificates in a chain."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


async def list_(call: Call) -> Response:
    """GET /v1/keys"""
    return json_answer(KeyPage(items=await call.ctx.site.signing.keys(call.caller)))


async def enrol(call: Call) -> Response:
    """PUT /v1/keys/{name}/bindings/{provider}: repeating it changes nothing."""
    ask, _ = await call.read(EnrolAsk)
    chain = _chain(ask.chain_pem)
    receipt = await call.ctx.site.signing.enrol_key(
        call.caller, _name(call), call.params["provider"], ask.key_ref, chain
    )
    return await _accepted(call, receipt)


async def disable(call: Call) -> Response:
    """POST /v1/keys/{name}:disable"""
    ask, raw = await call.read(BindingAsk)
    receipt = await call.ctx.site.signing.disable_key(
        call.caller, _name(call), ask.provider, ask.reason, call.idempotency(raw)
    )
    return await _accepted(call, receipt)


async def enable(call: Call) -> Response:
    """POST /v1/keys/{name}:enable"""
    ask, raw = await call.read(BindingAsk)
    receipt = await call.ctx.site.signing.enable_key(
        call.caller, _name(call), ask.provider, ask.reason, call.idempotency(raw)
    )
    return await _accepted(call, receipt)


async def _accepted(call: Call, receipt: Receipt) -> Response:
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(id=receipt.stream, url="/v1/keys", version=receipt.version, receipt=shown)
    return json_answer(answer, 200, as_text(receipt_headers(receipt, shown, prefer)))


def _name(call: Call) -> str:
    name = call.params["name"]
    if not _NAME.fullmatch(name):
        raise Refused(
            "key-name-invalid",
            "a key's name has 1 to 100 letters, digits, dots, dashes and underscores",
        )
    return name


def _chain(pem: str) -> list[bytes]:
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise Refused(
            "certificate-malformed",
            "chain_pem is not one or more PEM certificates",
            hint="Put the signer's certificate first, then its issuers.",
        ) from None
    if len(certificates) > MAX_CHAIN:
        raise Refused("certificate-malformed", f"a chain has at most {MAX_CHAIN} certificates")
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]
