"""A PKCS#11 module loaded once per process, initialised for use by many threads, and restarted when it must be.

python-pkcs11 calls ``C_Initialize(NULL)``, by which an application promises to call the module from one thread only
(PKCS#11 v2.40 section 5.4); SoftHSM then switches its own locks off. Here the module is initialised once more with
CKF_OS_LOCKING_OK; where it answers that it cannot lock, its calls are made one at a time. No other code of this
process may use the same module.

A restart (C_Finalize, C_Initialize) is the only way by which some modules notice that a token has come back. It
invalidates every session and handle of the process, so ``generation`` counts restarts, and none begins while a call
is under way.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pkcs11
from pkcs11.exceptions import PKCS11Error

from outlast.core.errors import Refused, Unavailable

RESTART_WAIT_S = 1.0
"""How long a restart waits for other threads' calls to end; a module that hangs cannot be restarted."""

_CKF_OS_LOCKING_OK = 0x02
_CKR_OK = 0x00
_CKR_CANT_LOCK = 0x0A


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS: no mutex functions of ours, the module is to use the operating system's."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class _FunctionList(ctypes.Structure):
    """The beginning of CK_FUNCTION_LIST, whose order the standard fixes."""

    _fields_ = (
        ("major", ctypes.c_ubyte),
        ("minor", ctypes.c_ubyte),
        ("initialize", ctypes.c_void_p),
        ("finalize", ctypes.c_void_p),
    )


class Module:
    """One loaded module, shared by all signers of this process that name it. Thread-safe."""

    _loaded: ClassVar[dict[str, Module]] = {}
    _loading: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: str) -> None:
        self.library = pkcs11.lib(path)
        self._path = path
        self._can_lock = _reinitialize(path)
        self.generation = 0
        self.logins: dict[str, object] = {}
        """By token label; kept and locked by `token`."""
        self._calls = 0
        self._restarting = False
        self._change = threading.Condition()
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(cls, path: Path) -> Module:
        """The module at ``path``. Raises Refused ``module-not-found``, Unavailable ``provider-unreachable``."""
        with cls._loading:
            known = cls._loaded.get(str(path))
            if known is not None:
                return known
            if not path.is_file():
                raise Refused(
                    "module-not-found",
                    f"there is no PKCS#11 module {path.name!r} at the configured path",
                    hint="Install the HSM's client, or correct the path.",
                )
            try:
                known = cls._loaded[str(path)] = cls(str(path))
            except PKCS11Error as error:
                raise Unavailable("provider-unreachable", f"the module: {error}") from error
            return known

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Around everything that uses the module. Waits while it is being restarted."""
        with self._change:
            self._change.wait_for(lambda: not self._restarting)
            self._calls += 1
        try:
            if self._can_lock:
                yield
            else:
                with self._one_at_a_time:
                    yield
        finally:
            with self._change:
                self._calls -= 1
                self._change.notify_all()

    def restart(self, seen_generation: int) -> None:
        """C_Finalize and C_Initialize, unless another thread has restarted since ``seen_generation``.

        Not to be called within `call`. Raises Unavailable ``provider-busy`` while other calls do not end, and
        ``provider-unreachable`` where the module does not start; the next restart tries again.
        """
        with self._change:
            if not self._change.wait_for(lambda: not self._restarting, RESTART_WAIT_S):
                raise _busy()
            if self.generation != seen_generation:
                return
            self._restarting = True
            try:
                if not self._change.wait_for(lambda: self._calls == 0, RESTART_WAIT_S):
                    raise _busy()
                self.generation += 1
                self._can_lock = _reinitialize(self._path)
            except PKCS11Error as error:
                raise Unavailable("provider-unreachable", f"the module: {error}") from error
            finally:
                self._restarting = False
                self._change.notify_all()


def _reinitialize(path: str) -> bool:
    """C_Finalize, then C_Initialize for threads; False where the module cannot lock. Raises PKCS11Error."""
    # the dynamic loader hands out the copy that python-pkcs11 has loaded
    functions = ctypes.POINTER(_FunctionList)()
    get_functions = ctypes.CDLL(path).C_GetFunctionList
    get_functions.restype = ctypes.c_ulong
    get_functions(ctypes.byref(functions))
    call_type = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)
    initialize = call_type(functions.contents.initialize)
    # its result does not matter: where it was not initialised, it may be now
    call_type(functions.contents.finalize)(None)
    arguments = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
    result = int(initialize(ctypes.addressof(arguments)))
    can_lock = result != _CKR_CANT_LOCK
    if not can_lock:
        result = int(initialize(None))
    if result != _CKR_OK:
        raise PKCS11Error(f"C_Initialize returned {result:#x}")
    return can_lock


def _busy() -> Unavailable:
    return Unavailable("provider-busy", "calls to the module do not end, so it cannot be restarted")
