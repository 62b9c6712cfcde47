"""What the errors of PKCS#11 (v2.40 section 5.1) mean to a caller of the keys port."""

from __future__ import annotations

from pkcs11 import exceptions as p11

from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.ports.keys_checks import credentials_refused

PIN_ERRORS = (
    p11.PinIncorrect,
    p11.PinInvalid,
    p11.PinLenRange,
    p11.PinExpired,
    p11.PinLocked,
    p11.UserPinNotInitialized,
)

STALE_ERRORS = (
    p11.DeviceRemoved,
    p11.KeyHandleInvalid,
    p11.ObjectHandleInvalid,
    p11.SessionClosed,
    p11.SessionHandleInvalid,
    p11.SlotIDInvalid,
    p11.TokenNotPresent,
    p11.TokenNotRecognised,
    p11.UserNotLoggedIn,
)
"""The session or handle is no longer what it was, so nothing was signed: connect afresh and try once more."""

_KEY_ERRORS = (
    p11.FunctionNotSupported,
    p11.KeySizeRange,
    p11.KeyTypeInconsistent,
    p11.MechanismInvalid,
    p11.MechanismParamInvalid,
)
_REQUEST_ERRORS = (p11.ArgumentsBad, p11.DataInvalid, p11.DataLenRange, p11.FunctionRejected)
_BUSY_ERRORS = (p11.DeviceMemory, p11.HostMemory, p11.OperationActive, p11.SessionCount)

# CKR_CRYPTOKI_NOT_INITIALIZED has no class of its own in python-pkcs11
_NOT_INITIALIZED = "not initialized"


def is_stale(error: p11.PKCS11Error) -> bool:
    """Whether connecting afresh may help, and nothing was signed."""
    return isinstance(error, STALE_ERRORS) or _NOT_INITIALIZED in str(error)


def translate(error: p11.PKCS11Error, scope: str, *, sent: bool) -> OutlastError:
    """Ours for theirs. ``sent``: whether the signing call itself had begun."""
    kind = type(error).__name__
    if isinstance(error, PIN_ERRORS):
        return credentials_refused(
            f"the token refuses the PIN ({kind})",
            hint="Correct the PIN and restart; it is not presented again, lest the token lock.",
        )
    if isinstance(error, _KEY_ERRORS):
        return Refused("key-unsupported", f"the token cannot sign so ({kind})", scope=scope)
    if isinstance(error, _REQUEST_ERRORS):
        return Refused("request-refused", f"the token refuses the request ({kind})", scope=scope)
    if isinstance(error, _BUSY_ERRORS):
        return Unavailable("provider-busy", f"the token has no room ({kind})", scope=scope)
    if is_stale(error) or not sent:
        return Unavailable("provider-unreachable", f"the token is not there ({kind})", scope=scope)
    return Unknown("provider-answer-lost", f"the token failed while signing ({kind})", scope=scope)
