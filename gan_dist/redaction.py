"""Take secrets out of texts that leave this machine or stay in a file: signed addresses, passwords, tokens."""

import re
from typing import Any

REMOVED = "[removed]"

_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/?#\s@'\"]*@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<place>\b[a-z][a-z0-9+.-]*://[^?#\s'\"<>]*)\?(?!\[removed\])[^\s'\"<>]*", re.IGNORECASE)
_VALUE = re.compile(
    r"(?P<name>\b(?:[\w.-]*[_.-])?(?:(?:API)?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)=)(?P<value>\"[^\"]*\"|'[^']*'|[^\s&;,]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(?P<name>\b(?:Authorization\s*:\s*|Bearer\s+))(?:(?:Bearer|Basic)\s+)?[^\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with every secret replaced by `[removed]`; redacting it again changes nothing.

    Secrets are the query and the `user:password@` of an address (a signed address is a password), the value of
    NAME=value where the name ends in KEY, TOKEN, SECRET or PASSWORD, and what follows `Authorization:` or `Bearer`.
    """
    text = _USER.sub(rf"\g<scheme>{REMOVED}@", text)
    text = _QUERY.sub(rf"\g<place>?{REMOVED}", text)
    text = _HEADER.sub(rf"\g<name>{REMOVED}", text)
    return _VALUE.sub(rf"\g<name>{REMOVED}", text)


def redact_all(value: Any) -> Any:
    """The same value (a text, or dictionaries and lists of any depth) with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redact_all(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(entry) for entry in value]
    return value
