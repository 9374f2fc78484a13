"""JSON and TOML that is none, or is nested without end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from terramorph.documents import MAX_DEPTH, DocumentError, parse_json, parse_json_object, parse_toml

DEEP_JSON = ["[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500]
DEEP_TOML = ["a = " + "[" * 100_000, "a = " + "[" * 200 + "]" * 200, ".".join("a" * 3000) + " = 1"]


@pytest.mark.parametrize("text", DEEP_JSON)
def test_deep_json_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="nested more than 64 levels deep"):
        parse_json(text)


@pytest.mark.parametrize("text", DEEP_TOML)
def test_deep_toml_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="nested more than 64 levels deep"):
        parse_toml(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_json, ""),
        (parse_json, "{"),
        (parse_json, b"\xff\xfe\xfa"),
        (parse_json, "9" * 5000),
        (parse_toml, "= 1"),
        (parse_toml, "a = " + "9" * 5000),
        (parse_json_object, "[]"),
        (parse_json_object, "null"),
        (parse_json_object, "1.5"),
    ],
)
def test_what_is_none_is_refused(parse: Callable[[str | bytes], object], text: str | bytes) -> None:
    with pytest.raises(DocumentError):
        parse(text)


def test_what_is_one_is_read() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep.encode()) == parse_json(deep)
    assert parse_json('"text"') == "text"
    assert parse_json_object('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_toml("a.b = [1, 2]") == {"a": {"b": [1, 2]}}
