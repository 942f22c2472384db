"""The exceptions of the checker."""

from __future__ import annotations


class Refused(Exception):
    """The checker does not accept what it was given: it is wrong, or not fully understood. The message says which."""


class NotProved(Exception):
    """A step of the proof does not hold. The message says which."""
