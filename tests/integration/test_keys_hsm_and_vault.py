"""What only real providers show: PINs and restarts of a SoftHSM token, sealing and policies of an OpenBao."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pkcs11
import pytest
from pkcs11.util.ec import encode_named_curve_parameters

from outlast.adapters.exchange import ExchangeLimits
from outlast.adapters.keys.pkcs11 import Pkcs11Signer
from outlast.adapters.keys.pkcs11.module import Module
from outlast.adapters.keys.remote import RemoteSigner, client_tls
from outlast.adapters.keys.transit import TransitSigner
from outlast.core.asymmetric import signature_is_valid
from outlast.core.clock import SystemClock
from outlast.core.errors import Refused, Unavailable
from outlast.ports.keys import Signer, SignRequest
from outlast.testing.servers import (
    OpenBao,
    SoftHsm,
    make_softhsm_token,
    make_tls_ca,
    make_tls_files,
    start_appliance,
    start_openbao,
    write_secret,
)

pytestmark = pytest.mark.anyio

P256 = "ecdsa-p256-sha256"


def request(key_ref: str) -> SignRequest:
    """A request to a P-256 key."""
    return SignRequest(key_ref=key_ref, algorithm=P256, tbs=b"tbs", operation="o/1/1")


async def signs(signer: Signer, key_ref: str) -> bool:
    """Whether a signature by the key verifies."""
    info = await signer.describe(key_ref)
    signature = await signer.sign(request(key_ref))
    return signature_is_valid(info.spki_der, P256, tbs=b"tbs", signature=signature)


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """A token; its configuration is in the environment from before the module is loaded."""
    hsm = make_softhsm_token(tmp_path_factory.mktemp("softhsm"), "outlast-a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(hsm.conf))
        yield hsm


@pytest.fixture
def token(softhsm: SoftHsm, tmp_path: Path) -> SoftHsm:
    """A fresh token beside it: logging in is per process and token."""
    fresh = make_softhsm_token(softhsm.conf.parent, tmp_path.name[:32])
    restart_module(fresh)
    return fresh


def restart_module(hsm: SoftHsm) -> None:
    """Have SoftHSM see tokens made since it was loaded."""
    module = Module.load(hsm.module)
    module.restart(module.generation)


@asynccontextmanager
async def opened(hsm: SoftHsm, pin: bytes = b"") -> AsyncIterator[Pkcs11Signer]:
    """A signer of the token, closed at the end."""
    signer = Pkcs11Signer(hsm.module, token_label=hsm.token_label, pin=pin or hsm.pin)
    try:
        yield signer
    finally:
        await signer.aclose()


async def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    """Refused, with what to do; nothing is loaded before the first call."""
    signer = Pkcs11Signer(tmp_path / "none.so", token_label="x", pin=b"1")
    with pytest.raises(Refused, match="module-not-found"):
        await signer.check()
    await signer.aclose()


async def test_a_token_that_is_not_there(softhsm: SoftHsm) -> None:
    """Unavailable: it may be put in later."""
    signer = Pkcs11Signer(softhsm.module, token_label="absent", pin=b"1234")
    for call in (signer.check(), signer.sign(request("k"))):
        with pytest.raises(Unavailable, match="provider-unreachable"):
            await call
    await signer.aclose()


async def test_keys_by_id_and_twins(token: SoftHsm) -> None:
    """A key is found by CKA_ID too; two of one label are ambiguous and refused; a taken label is not used again."""
    async with opened(token) as signer:
        await signer.generate("first", P256)
        with pytest.raises(Refused, match="key-exists"):
            await signer.generate("first", P256)
        for bad in ("id:", "id:zz", "id:00ff"):
            with pytest.raises(Refused, match="key-not-found"):
                await signer.describe(bad)
    relabel(token)
    async with opened(token) as signer:
        assert await signs(signer, "id:01")
        assert await signs(signer, "id:02")
        with pytest.raises(Refused, match="key-ambiguous"):
            await signer.describe("twin")


def relabel(token: SoftHsm) -> None:
    """Put two pairs named ``twin`` in the token, with ids 01 and 02."""
    module = Module.load(token.module)
    with module.call():
        hsm = module.library.get_token(token_label=token.token_label)
        session = hsm.open(rw=True, user_pin=token.pin.decode())
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        for key_id in (b"\x01", b"\x02"):
            parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            parameters.generate_keypair(store=True, label="twin", id=key_id)
        session.close()


async def test_a_refused_pin_is_presented_once(token: SoftHsm) -> None:
    """Tokens lock after a few wrong PINs, so the second call does not ask; the right PIN still works."""
    async with opened(token, b"00000000") as wrong:
        with pytest.raises(Refused, match="PinIncorrect"):
            await wrong.describe("k")
        with pytest.raises(Refused, match="has refused this PIN before"):
            await wrong.describe("k")
    async with opened(token) as right:
        await right.generate("k", P256)
        assert await signs(right, "k")


async def test_another_pin_is_not_let_in_by_an_existing_login(token: SoftHsm) -> None:
    """A login counts for the whole process; a second signer must still know the PIN."""
    async with opened(token) as right, opened(token, b"87654321") as wrong:
        await right.generate("k", P256)
        with pytest.raises(Refused, match="credentials-refused"):
            await wrong.describe("k")
        assert await signs(right, "k")


async def test_closing_one_signer_leaves_the_other_logged_in(token: SoftHsm) -> None:
    """Logging out ends the login of a whole process, so only the last to close does."""
    async with opened(token) as first:
        async with opened(token) as second:
            await second.generate("k", P256)
        assert await signs(first, "k")


async def test_signers_outlive_a_restart_of_the_module(token: SoftHsm) -> None:
    """Sessions and handles from before are replaced within the next call."""
    async with opened(token) as signer:
        await signer.generate("k", P256)
        restart_module(token)
        assert await signs(signer, "k")
        restart_module(token)
        await signer.check()


async def test_many_calls_while_the_module_restarts(token: SoftHsm) -> None:
    """No call fails for a restart that another has needed."""
    async with opened(token) as signer:
        await signer.generate("k", P256)

        async def sign_some() -> None:
            for _ in range(20):
                assert await signs(signer, "k")

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(sign_some)
            for _ in range(5):
                await anyio.sleep(0.02)
                await anyio.to_thread.run_sync(restart_module, token)


async def test_an_appliance_over_a_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    """The appliance signs with an HSM's key; the PIN is in a file of its own."""
    async with opened(softhsm) as local:
        await local.generate("appliance", P256)
    clock = SystemClock()
    ca = make_tls_ca(tmp_path, clock)
    client = make_tls_files(tmp_path, ca, "site", "client", clock)
    write_secret(tmp_path / "pin", softhsm.pin)
    appliance = start_appliance(
        tmp_path / "run",
        tls=make_tls_files(tmp_path, ca, "server", "server", clock),
        clients=[{"name": "site", "common_name": "site", "keys": ["appliance"]}],
        keystore={
            "kind": "pkcs11",
            "module": str(softhsm.module),
            "token_label": softhsm.token_label,
            "pin_file": "../pin",
        },
        env={"SOFTHSM2_CONF": str(softhsm.conf)},
    )
    try:
        remote = RemoteSigner(
            appliance.url,
            client_tls(client.ca, client.certificate, client.key),
            limits=ExchangeLimits(connect_timeout_s=10.0),
        )
        await remote.check()
        assert await signs(remote, "appliance")
        await remote.aclose()
    finally:
        assert appliance.process.stop() == 0


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """OpenBao with one key."""
    bao = start_openbao(tmp_path_factory.mktemp("bao"))
    with vault(bao) as client:
        client.post("/v1/sys/mounts/transit", json={"type": "transit"}).raise_for_status()
        client.post("/v1/transit/keys/k", json={"type": "ecdsa-p256"}).raise_for_status()
    yield bao
    bao.process.stop()


def vault(bao: OpenBao) -> httpx2.Client:
    """Its API, as root."""
    return httpx2.Client(base_url=bao.url, headers={"X-Vault-Token": bao.token})


def post(bao: OpenBao, path: str, body: dict[str, object]) -> httpx2.Response:
    """One call as root."""
    with vault(bao) as client:
        return client.post(path, json=body).raise_for_status()


@asynccontextmanager
async def transit(bao: OpenBao, token: str = "") -> AsyncIterator[TransitSigner]:
    """A signer of it, closed at the end."""
    signer = TransitSigner(
        bao.url, token or bao.token, limits=ExchangeLimits(connect_timeout_s=10.0)
    )
    try:
        yield signer
    finally:
        await signer.aclose()


async def test_rotation_does_not_change_a_key(bao: OpenBao) -> None:
    """After the vault rotates, the old version signs as before and the new one is another key."""
    async with transit(bao) as signer:
        before = await signer.describe("k:1")
        with pytest.raises(Refused, match="key-not-found"):
            await signer.describe("k:2")
        post(bao, "/v1/transit/keys/k/rotate", {})
        assert await signs(signer, "k:1")
        assert await signs(signer, "k:2")
        assert (await signer.describe("k:2")).spki_der != before.spki_der


async def test_a_least_privilege_token_suffices(bao: OpenBao) -> None:
    """Read on keys and update on sign is all the policy the signer needs; without sign it is Refused."""
    rules = {
        "signer": 'path "transit/sign/k" {capabilities=["update"]} path "transit/keys/k" {capabilities=["read"]}',
        "reader": 'path "transit/keys/k" {capabilities=["read"]}',
    }
    tokens = {}
    for name, rule in rules.items():
        post(bao, f"/v1/sys/policies/acl/{name}", {"policy": rule})
        answer = post(bao, "/v1/auth/token/create", {"policies": [name], "ttl": "1h"})
        tokens[name] = answer.json()["auth"]["client_token"]
    async with transit(bao, tokens["signer"]) as signer:
        assert await signs(signer, "k:1")
    async with transit(bao, tokens["reader"]) as reader:
        with pytest.raises(Refused, match="credentials-refused") as caught:
            await reader.sign(request("k:1"))
        assert caught.value.retry == "reauth"


async def test_keys_that_cannot_sign_documents(bao: OpenBao) -> None:
    """Symmetric, small and foreign keys are Refused at their description, before any certificate is enrolled."""
    for key_type in ("aes256-gcm96", "rsa-2048", "ecdsa-p384"):
        post(bao, f"/v1/transit/keys/{key_type}", {"type": key_type})
    post(bao, "/v1/transit/keys/derived", {"type": "ed25519", "derived": True})
    async with transit(bao) as signer:
        for name in ("aes256-gcm96", "rsa-2048", "ecdsa-p384", "derived"):
            with pytest.raises(Refused, match="key-unsupported"):
                await signer.describe(f"{name}:1")


async def test_a_sealed_vault_is_unavailable(tmp_path: Path) -> None:
    """Sealing takes the provider away for everybody, and it says so."""
    bao = start_openbao(tmp_path)
    try:
        post(bao, "/v1/sys/mounts/transit", {"type": "transit"})
        post(bao, "/v1/transit/keys/k", {"type": "ecdsa-p256"})
        async with transit(bao) as signer:
            assert await signs(signer, "k:1")
            post(bao, "/v1/sys/seal", {})
            for call in (signer.sign(request("k:1")), signer.check()):
                with pytest.raises(Unavailable, match="provider-sealed"):
                    await call
    finally:
        bao.process.stop()
