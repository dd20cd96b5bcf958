"""Secrets in text that a run records: recognised by value or by what stands around them, replaced by a mark."""

import os
import re
from typing import Any

MARK = "***"

_NAMES = (
    r"(?:(?:api|access|auth|account|secret|private|client|session|bearer|refresh|sas)?(?:key|token|secret|passw(?:or)?d|auth)"
    r"(?:id)?|passphrase|pwd|pass|credentials?|signature|sig|jwt|cookie)"
)
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"'&;,]+)"""
_ASSIGNED = re.compile(
    rf"""(?ix) (?<![\w-])
    (?P<name> (?: [\w.-]*[_.-] )? AWS{_NAMES} | (?: [\w.-]*[_.-] )? {_NAMES} (?: [_-]id )? )  # WANDB_API_KEY, X-Amz-Signature
    (?P<sign> \s? = \s? | ["'] \s* : \s* )                                                 # KEY=..., "key": ...
    (?P<value> {_VALUE} )
    """
)
_OPTION = re.compile(rf"(?i)(?P<name>(?<!\S)--(?:[\w-]*[_-])?{_NAMES})(?P<sign>\s+)(?P<value>[^\s-]\S*)")
_USER = re.compile(
    r"(?P<before>[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^\s/:@]*:(?=[^\s/@]+@)|(?=[^\s/:@]{20,}@)))(?P<value>[^\s/@]+)"
)
_QUERY = re.compile(r"(?P<before>\b[a-zA-Z][a-zA-Z0-9+.-]*://[^?#\s'\"<>]*\?)(?P<value>[^\s'\"<>]+)")
_BEARER = re.compile(r"(?i)(?P<before>\b(?:bearer|basic)\s+)(?P<value>[A-Za-z0-9._~+/=-]{8,})")
_KNOWN = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{20,}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)


_SECRET_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:\w*key|key_id|\w*token|\w*secret|passw(?:or)?d|pwd|sas|signature|credentials?)$"
)
_SHORTEST = 12  # letters of a value that is looked for: shorter ones are words as well
_remembered: set[str] = set()


def remember(*values: str) -> None:
    """Replace these secrets from now on wherever they stand in a text, such as in an error of somebody else's library."""
    _remembered.update(value for value in values if len(value) >= _SHORTEST)


def _values() -> list[str]:
    """Return the secrets of this process by value, the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and not value.startswith(("/", "~")) and _SECRET_VARIABLE.search(name)
    }
    return sorted(found | _remembered, key=len, reverse=True)


def redact(text: str) -> str:
    """Return `text` with the values of secrets replaced by ***.

    Values of variables whose names say secret, and those of signed addresses, are replaced wherever they stand.

    Recognised: KEY=value and "token": "value" by the end of the name, `--password value`, the query string of an
    address (a signed address is a password), the password of user:password@host, Bearer and Basic credentials, and keys of well-known services.
    """
    for value in _values():
        text = text.replace(value, MARK)
    text = _QUERY.sub(rf"\g<before>{MARK}", text)
    text = _USER.sub(rf"\g<before>{MARK}", text)
    text = _BEARER.sub(rf"\g<before>{MARK}", text)
    text = _ASSIGNED.sub(rf"\g<name>\g<sign>{MARK}", text)
    text = _OPTION.sub(rf"\g<name>\g<sign>{MARK}", text)
    return _KNOWN.sub(MARK, text)


def redact_all(value: Any) -> Any:
    """Return the same value (a text, or dictionaries and lists of any depth) with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redact_all(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(entry) for entry in value]
    return value
