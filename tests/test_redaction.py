"""Secrets of addresses, and what is left of the addresses."""

from __future__ import annotations

import logging
import pickle

import pytest

from terramorph.errors import InputWarning, RasterError, StorageError, warn
from terramorph.redaction import RedactedLog, redact, redact_text, stem_of

SECRET = "s3cr3tS3CR3T99abc"


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://t.example/{z}/{x}/{y}.png?key=%s", "https://t.example/{z}/{x}/{y}.png?key=..."),
        ("https://t.example/{z}/{x}/{y}.png?a=1&appid=%s&b=2", "https://t.example/{z}/{x}/{y}.png?a=1&appid=...&b=2"),
        ("https://t.example/{z}/{x}/{y}?access_token=%s/b+c==", "https://t.example/{z}/{x}/{y}?access_token=..."),
        ("https://t.example/{z}/{x}/{y}?Ocp-Apim-Subscription-Key=%s", None),
        ("https://t.example/{z}/{x}/{y}#token=%s", "https://t.example/{z}/{x}/{y}#token=..."),
        ("https://me:%s@t.example:80/{z}/{x}/{y}@2x.png", "https://t.example:80/{z}/{x}/{y}@2x.png"),
        ("https://me:a/%s@t.example/{z}/{x}/{y}.png", "https://t.example/{z}/{x}/{y}.png"),
        ("https:/me:%s@t.example/a.tif", "https:/t.example/a.tif"),
        ("https://t.example:80/{z}/{x}/{y}@2x.png?k=v&tk=%s", "https://t.example:80/{z}/{x}/{y}@2x.png?k=v&tk=..."),
        (
            "https://t.example/vt/lyrs=s&x={x}&y={y}&z={z}&key=%s",
            "https://t.example/vt/lyrs=s&x={x}&y={y}&z={z}&key=...",
        ),
        ("s3://ID:%s@bucket/a.tif", "s3://bucket/a.tif"),
        ("/vsicurl/https://b.example/a.tif?X-Amz-Credential=%s&X-Amz-Signature=%s", None),
        ("https://b.example/a.tif?sv=2020&sig=%s", "https://b.example/a.tif?sv=2020&sig=..."),
        ("https://t.example/{z}/{x}/{y}?url=https%%3A%%2F%%2Fh%%2Fa.tif%%3Fsig%%3D%s", None),
        ("postgresql://me:%s@host/db", "postgresql://host/db"),
    ],
)
def test_secrets_are_left_out(url, left):
    url = url.replace("%s", SECRET).replace("%%", "%")
    found = redact_text(url)
    assert SECRET not in found
    assert left is None or redact(url) == found == left
    assert redact_text(f"no answer ('{url}', 403): /a?key={SECRET} failed").count(SECRET) == 0
    assert redact(redact(url)) == redact(url)
    assert SECRET not in stem_of(url)


@pytest.mark.parametrize("part", [SECRET, "0f8fad5b-d9cb-469f-a165-70867728950e"])
def test_what_looks_drawn_by_lot_becomes_a_digest_so_that_two_stay_two(part):
    for url in ("https://t.example/{part}/{{z}}/{{x}}/{{y}}.png", "https://t.example/{{z}}/{{x}}/{{y}}.png?set={part}"):
        first, second = (redact(url.format(part=p)) for p in (part, part[::-1]))
        assert part not in first
        assert first != second


@pytest.mark.parametrize(
    "spec",
    [
        "https://t.example/wmts?LAYER=ortho_2021_rgb_10cm&TILEMATRIX={z}&TILECOL={x}&TILEROW={y}&FORMAT=image/png",
        "https://t.example/ortho-2021/{z}/{x}/{-y}.png?v=3",
        "data/key=1/a.tif",
        r"C:\maps\a.tif",
        "s3://bucket/0f8fad5bd9cb469fa16570867728950e/map.tif",
    ],
)
def test_other_addresses_and_paths_stay_as_they_are(spec):
    assert redact(spec) == redact_text(spec) == spec


@pytest.mark.parametrize(
    ("spec", "stem"),
    [("https://b.example/a.tif?sv=2020.01", "a"), ("s3://bucket/b.c.tif", "b.c"), ("data/a#1?.tif", "a#1?")],
)
def test_titles_are_the_names_of_files(spec, stem):
    assert stem_of(spec) == stem


def test_errors_warnings_and_logs_are_redacted():
    url = f"https://t.example/a.tif?token={SECRET}"
    for kind in (RasterError, StorageError):
        error = kind(f"{url} cannot be read.")
        assert (
            str(error) == str(pickle.loads(pickle.dumps(error))) == "https://t.example/a.tif?token=... cannot be read."
        )
    with pytest.warns(InputWarning, match=r"token=\.\.\. is") as told:
        warn(f"{url} is doubtful.")
    assert SECRET not in str(told[0].message)
    record = logging.LogRecord("urllib3", logging.WARNING, "", 0, "Retrying: %s", (f"/0/0/0.png?key={SECRET}",), None)
    assert RedactedLog().filter(record)
    assert record.getMessage() == "Retrying: /0/0/0.png?key=..."
