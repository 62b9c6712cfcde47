"""Outlast keeps trusted work going while cloud providers fail.

One program, ``outlast``, runs as a *site*. Cut off from everything, a site still accepts work durably,
acts within its policy and keeps evidence that anyone can verify. docs/explain/design.md tells how.
"""

__version__ = "0.1.0"
