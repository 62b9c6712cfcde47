"""CMS signatures (RFC 5652): built from templates, extended with timestamps, judged before use.

Pure: bytes in, bytes or a refusal out. Nothing here reads a file, a clock or a key.
"""

from outlast.signing.cms.certificate import (
    CertificateFacts,
    check_certificate,
    check_validity,
    verify_signature,
)
from outlast.signing.cms.signed_data import (
    add_timestamp,
    signature_value,
    signed_statement,
    timestamp_imprint,
    timestamp_tokens,
)
from outlast.signing.cms.template import CmsTemplate, DigestName, Profile, message_digest

__all__ = [
    "CertificateFacts",
    "CmsTemplate",
    "DigestName",
    "Profile",
    "add_timestamp",
    "check_certificate",
    "check_validity",
    "message_digest",
    "signature_value",
    "signed_statement",
    "timestamp_imprint",
    "timestamp_tokens",
    "verify_signature",
]
