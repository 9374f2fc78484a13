"""Redaction of keys, tokens and passwords in addresses, for names, files, messages and logs."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from urllib.parse import quote, unquote

_PARTS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]+:/+)((?:[^/\s]*|[^/\s:]+:(?!\d*/)[^\s?{]*)@)?([^/?#]*)([^?#]*)(.*)", re.DOTALL
)
"""Scheme, user and password, host, path, and query or fragment. `Path` leaves one of the slashes after a scheme."""
_PARAMETER = r"(?P<name>[{before}][\w.\-\[\]%]+=)(?P<value>[^{after}]*)"
_IN_PATH = re.compile(_PARAMETER.format(before="/&;,", after="/&;,"))
_IN_QUERY = re.compile(_PARAMETER.format(before="?#&;", after="&#"))
_IN_TEXT = re.compile(_PARAMETER.format(before="?&", after=r"&#\s\"'<>),;"))
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/[^\s\"'<>|]+")
_SECRET_NAMES = re.compile(
    r"(?i)key|token|secret|sig|auth|pass|pwd|cred|jwt|bearer|session|ticket|licen[cs]e|subscription|policy|account"
    r"|app.?(id|code)|client.?id|access.?id|user|login|email|^(ak|sk|tk|pw|sas|sid|uid|code|hash|hmac|x-amz-.*|x-goog-.*)$"
)
_SEGMENT = re.compile(r"[^/]+")
_UUID = re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PLACE = re.compile(r"\{[^{}]*\}")


def redact(url: str) -> str:
    """Return a URL or URL template without possible secrets; other texts, such as a path, unchanged.

    User and password before the host are left out. Three points replace the value of a parameter whose name marks a
    secret: addresses that differ only there become equal. Three points and a digest replace other values that look
    random (in templates also parts of the path), so that two addresses stay two.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return url
    scheme, _, host, path, query = parts.groups()
    if _PLACE.search(url):
        path = _SEGMENT.sub(lambda match: _digested(match[0]), path)
    return scheme + host + _IN_PATH.sub(_without_value, path) + _IN_QUERY.sub(_without_value, query)


def redact_text(text: str) -> str:
    """Redact every URL in a text, and every parameter of a URL of which only the end is there."""
    return _IN_TEXT.sub(_without_value, _URL.sub(lambda match: redact(match[0]), text))


def stem_of(source: str) -> str:
    """Return the name without suffix of the file that a path or a URL names, for titles: no part of a URL's query."""
    if _URL.search(source):
        source = re.split(r"[?#]", redact(source))[0]
    return Path(source).stem


def _without_value(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    inner = unquote(value)
    if "://" in inner:
        return name + quote(redact(inner), safe="{}" if inner == value else "")
    if _PLACE.fullmatch(value) or not value:
        return match[0]
    return name + ("..." if _SECRET_NAMES.search(unquote(name[1:-1])) else _digested(value))


def _digested(value: str) -> str:
    """Return a value, or its digest if it looks like a key."""
    words = re.split(r"[^A-Za-z0-9]", value)
    drawn = any(
        len(word) >= 16 and sum(c.isdigit() for c in word) >= 3 <= sum(map(str.isalpha, word)) for word in words
    )
    if _PLACE.search(value) or not (drawn or _UUID.search(value)):
        return value
    return f"...{hashlib.blake2b(value.encode(), digest_size=4).hexdigest()}"


class RedactedLog(logging.Filter):
    """Filter of a library's logger that redacts its messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        record.msg, record.args = redact_text(record.getMessage()), None
        return True
