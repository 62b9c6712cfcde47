"""What went wrong at an object store, as one of our errors.

obstore tells most failures by text: the HTTP status and S3's own error code are read from it, and nothing else of it
is passed on, since it may hold whatever the server sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from outlast.core.errors import OutlastError, Refused, Unavailable

SLOW_DOWN_S = 2.0
"""How long to leave a store alone that asks to be slowed down: obstore does not pass on its Retry-After."""
FULL_RETRY_S = 30.0
"""Suggested wait after ``storage-full``: space comes back by people or by retention, not by itself."""

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_THROTTLED = frozenset(
    {"SlowDown", "TooManyRequests", "ThrottlingException", "RequestLimitExceeded"}
)
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge"})
_BUCKET = frozenset({"NoSuchBucket", "InvalidBucketName", "PermanentRedirect"})
_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "InvalidToken",
     "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"}
)  # fmt: skip


def is_present_already(error: BaseException) -> bool:
    """Whether a conditional put found the name taken."""
    return isinstance(error, AlreadyExistsError | PreconditionError)


@contextmanager
def translated(bucket: str, name: str) -> Iterator[None]:
    """Errors of obstore as Refused or Unavailable; others pass."""
    try:
        yield
    except (BaseError, FileNotFoundError, ValueError) as error:
        if is_present_already(error):
            raise
        raise _meaning(error, bucket, name) from None


def _meaning(error: Exception, bucket: str, name: str) -> OutlastError:
    text = str(error)
    status = int(match[1]) if (match := _STATUS.search(text)) else 0
    code = match[1] if (match := _CODE.search(text)) else ""
    if code in _BUCKET or status in (301, 307):
        return _no_bucket(bucket, code or str(status))
    if isinstance(error, FileNotFoundError) or status == 404:
        return Refused("blob-not-found", f"there is no blob {name}")
    if code in _CREDENTIALS or status in (401, 403):
        return _credentials(bucket, code or str(status))
    if code in _FULL or status == 507:
        return _full()
    if code in _THROTTLED or status == 429:
        return Unavailable(
            "throttled", f"the object store asks to be slowed down ({code or status})",
            retry_after_s=SLOW_DOWN_S,
        )  # fmt: skip
    if status:
        return Unavailable("store-failed", f"the object store answered {status} {code}".rstrip())
    if isinstance(error, ValueError):
        return Refused("object-store-settings", f"the settings for bucket {bucket} cannot be used")
    return Unavailable("unreachable", "the object store does not answer")


def _no_bucket(bucket: str, why: str) -> Refused:
    return Refused(
        "bucket-not-found",
        f"the object store has no bucket {bucket} for us ({why})",
        hint="Check endpoint, bucket and region in its [blobs] table; Outlast does not make buckets.",
    )


def _credentials(bucket: str, why: str) -> Refused:
    return Refused(
        "credentials-refused",
        f"the object store refused our credentials for bucket {bucket} ({why})",
        hint="Check the files that access_key_file and secret_key_file name, what the key may do, and the clock.",
        retry="reauth",
    )


def _full() -> Unavailable:
    return Unavailable(
        "storage-full",
        "the object store has no room for a new blob",
        hint="Free space there, or raise the quota.",
        retry_after_s=FULL_RETRY_S,
    )
