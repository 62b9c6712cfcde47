"""Sessions of one token: logged in once, pooled, thrown away when stale.

PKCS#11 logs in an application, not a session (v2.40 section 5.6), and logging out ends the login of all. So one session holds the
login for the whole process, counted by the signers that use it, and work is done in others.
"""

from __future__ import annotations

import hmac
import threading
from typing import Any

from pkcs11 import Attribute, ObjectClass, Session, Slot, Token
from pkcs11 import exceptions as p11

from outlast.adapters.keys.pkcs11.module import Module
from outlast.core.errors import Refused, Unavailable
from outlast.ports.keys_checks import credentials_refused, key_not_found

ID_PREFIX = "id:"
MAX_KEY_REF_CHARS = 255
MAX_HANDLES = 1024


class Login:
    """The login of this process to one token. Guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.generation = -1
        self.session: Session | None = None
        self.pin = b""
        self.refused_pin = b""


class WorkSession:
    """A session and the private keys it has found."""

    def __init__(self, session: Session, slot: Slot, generation: int) -> None:
        self.session = session
        self.slot = slot
        self.generation = generation
        self.signing = False
        """Whether the token may have begun to sign."""
        self.keys: dict[str, Any] = {}  # Any: python-pkcs11 makes the class of each key as it goes

    def private_key(self, key_ref: str) -> Any:
        """The key's handle. Raises Refused ``key-not-found``, ``key-ambiguous``; p11.TokenNotPresent."""
        if key_ref not in self.keys:
            if len(self.keys) >= MAX_HANDLES:
                self.keys.clear()
            self.keys[key_ref] = self.find(ObjectClass.PRIVATE_KEY, key_ref)
        return self.keys[key_ref]

    def find(self, kind: ObjectClass, key_ref: str) -> Any:
        """The one object of that kind and name."""
        found = list(self.session.get_objects({Attribute.CLASS: kind, **_name(key_ref)}))
        if len(found) == 1:
            return found[0]
        if found:
            raise Refused(
                "key-ambiguous",
                f"the token has {len(found)} keys {key_ref!r}",
                hint="Name the key by its id: id:<hex>.",
            )
        # a token that was taken away has no objects either: SoftHSM then finds nothing and says so cheerfully
        try:
            self.slot.get_token()
        except p11.PKCS11Error as error:
            raise p11.TokenNotPresent() from error
        raise key_not_found(key_ref)


class TokenPool:
    """At most as many sessions as there are callers; `take` and `give` are to be called within `Module.call`."""

    def __init__(self, module: Module, token_label: str, pin: bytes) -> None:
        self._module = module
        self._label = token_label
        self._pin = pin
        self._idle: list[WorkSession] = []
        self._lock = threading.Lock()
        self._closed = False
        login = module.logins.setdefault(token_label, Login())
        assert isinstance(login, Login)
        self._login = login
        with login.lock:
            login.users += 1

    def take(self) -> WorkSession:
        """An idle session of this generation, or a new one. Raises PKCS11Error, Refused, Unavailable."""
        with self._lock:
            if self._closed:
                raise Unavailable("provider-closed", "this provider has been closed")
            while self._idle:
                session = self._idle.pop()
                if session.generation == self._module.generation:
                    return session
        token = self._token()
        self._log_in(token)
        return WorkSession(token.open(), token.slot, self._module.generation)

    def give(self, session: WorkSession) -> None:
        """Take back a session that is still good."""
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                return
        close_session(session.session)

    def token(self) -> Token:
        """The token, logged in; to open a session of another kind."""
        token = self._token()
        self._log_in(token)
        return token

    def present(self) -> None:
        """Returns when the token is there. Raises PKCS11Error."""
        self._token()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when given back. The last one out logs out."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            if session.generation == self._module.generation:
                close_session(session.session)
        with self._login.lock:
            self._login.users -= 1
            if self._login.users == 0 and self._login.session is not None:
                if self._login.generation == self._module.generation:
                    close_session(self._login.session)
                self._login.session = None

    def _token(self) -> Token:
        for slot in self._module.library.get_slots():
            try:
                token = slot.get_token()
            except (p11.TokenNotPresent, p11.TokenNotRecognised):
                continue
            if token.label == self._label:
                return token
        raise p11.TokenNotPresent()

    def _log_in(self, token: Token) -> None:
        login = self._login
        with login.lock:
            if hmac.compare_digest(login.refused_pin, self._pin) and self._pin:
                # tokens lock after a few wrong PINs: one that was refused is not tried again
                raise credentials_refused("the token has refused this PIN before")
            if login.session is not None and login.generation == self._module.generation:
                if not hmac.compare_digest(login.pin, self._pin):
                    raise credentials_refused("the token is logged in to with another PIN")
                return
            try:
                login.session = token.open(user_pin=self._pin.decode("utf-8", "replace"))
            except p11.UserAlreadyLoggedIn:
                # by other code in this process; there is no session of ours to hold
                login.session = token.open()
            except (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange):
                login.refused_pin = self._pin
                raise
            login.pin, login.generation = self._pin, self._module.generation


def close_session(session: Session) -> None:
    """Close; a session that is already gone is closed."""
    try:
        session.close()
    except p11.PKCS11Error:
        pass  # the module has dropped it, which is what was wanted


def _name(key_ref: str) -> dict[Attribute, object]:
    """A label, or ``id:`` and hex for CKA_ID. Raises Refused ``key-not-found`` for what can be neither."""
    if not 0 < len(key_ref) <= MAX_KEY_REF_CHARS:
        raise key_not_found(key_ref)
    if not key_ref.startswith(ID_PREFIX):
        return {Attribute.LABEL: key_ref}
    try:
        return {Attribute.ID: bytes.fromhex(key_ref.removeprefix(ID_PREFIX))}
    except ValueError:
        raise key_not_found(key_ref) from None
