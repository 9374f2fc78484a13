"""Models fetched: resumed, whole, of the right digest, by one process at a time, or a sentence."""

from __future__ import annotations

import datetime
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from terramorph.errors import BundleError, StorageError
from terramorph.models import Entry, pull, store, stored

from ..processes import nobody, wait_until
from .server import Server, serving

BODY = bytes(range(256)) * 4096  # 1 MiB


def entry(**changes: object) -> Entry:
    known = {
        "name": "town", "about": "", "file": "models/town.safetensors", "bytes": len(BODY), "licence": "CC0",
        "sha256": hashlib.sha256(BODY).hexdigest(), "trained_on": "a town", "rights": "none", "ground_resolution": 1.0,
        "date": datetime.date(2026, 11, 28),
    }  # fmt: skip
    return Entry.model_validate(known | changes)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(BODY) as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERRAMORPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left(cache: Path) -> list[str]:
    """The files in the cache, without locks."""
    return sorted(path.name for path in (cache / "models" / "sha256").iterdir() if path.suffix != ".lock")


def test_fetched_once_and_kept_by_content(server: Server, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    wanted = entry(urls=(server.url,))
    path = pull(wanted, progress=lambda done, total: seen.append((done, total)))
    assert path == stored(wanted.sha256) == cache / "models" / "sha256" / f"{wanted.sha256}.safetensors"
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert pull(entry(name="other", urls=(server.url,))) == path  # another name of the same content
    assert server.asked == [None]
    assert left(cache) == [path.name]


def test_a_cut_connection_goes_on_where_it_was(server: Server) -> None:
    server.cut = 300_000
    path = pull(entry(), [server.url], pause=0.0)
    assert path.read_bytes() == BODY
    assert server.asked[0] is None
    starts = [int(str(asked).removeprefix("bytes=").removesuffix("-")) for asked in server.asked[1:]]
    assert all(a + 200_000 < b for a, b in zip([0, *starts], starts, strict=False))  # nearly all that came is kept


def test_a_process_that_ended_is_gone_on_from(server: Server, cache: Path) -> None:
    wanted = entry(urls=(server.url,))
    part = stored(wanted.sha256).with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:1000])
    assert pull(wanted, pause=0.0).read_bytes() == BODY
    assert server.asked == ["bytes=1000-"]
    assert not part.exists()


def test_a_server_that_cannot_resume_begins_again(server: Server) -> None:
    wanted = entry(urls=(server.url,))
    part = stored(wanted.sha256).with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    server.ranges = False
    assert pull(wanted, pause=0.0).read_bytes() == BODY


def test_a_part_of_another_file_is_thrown_away(server: Server) -> None:
    wanted = entry(urls=(server.url,))
    part = stored(wanted.sha256).with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert pull(wanted, pause=0.0).read_bytes() == BODY
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("body", [BODY[:-1] + b"x", BODY + b"x", BODY[:-1]], ids=["other", "longer", "shorter"])
def test_what_is_not_the_file_is_refused(server: Server, cache: Path, body: bytes) -> None:
    server.body = body
    with pytest.raises(BundleError, match="could not be fetched"):
        pull(entry(), [server.url], pause=0.0)
    assert not stored(entry().sha256).exists()


def test_the_next_address_is_tried_and_reasons_are_told(server: Server) -> None:
    with serving(b"") as refusing:
        refusing.status = 403
        addresses = [f"{refusing.url}?token=secret", "ftp://example.org/town", server.url]
        assert pull(entry(), addresses, pause=0.0).read_bytes() == BODY
        stored(entry().sha256).unlink()
        with pytest.raises(BundleError, match=r"403.*not an http.*put its file") as caught:
            pull(entry(), addresses[:2], pause=0.0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "gives 18 bytes, and the published file has 1048576"),
        ("http://127.0.0.1:99999/x", "is, or leads to, no valid"),
    ],
    ids=["page", "address"],
)
def test_what_no_further_try_would_mend_is_said_at_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    server.body = b"<html>login</html>"
    here, waited, sleep = threading.current_thread(), [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda s: (waited.append if threading.current_thread() is here else sleep)(s))
    with pytest.raises(BundleError, match=said):
        pull(entry(), [(url or server.url).replace("http", "HTTP", 1)], pause=2.0)
    assert not waited
    assert all((cache / "models" / "sha256" / name).stat().st_size == 0 for name in left(cache))


def test_offline_says_where_to_put_the_file(cache: Path) -> None:
    with pytest.raises(BundleError, match=r"No address .*put its file .*at .*sha256"):
        pull(entry())
    with nobody() as host, pytest.raises(BundleError, match=r"cannot be reached.*put its file") as caught:
        pull(entry(), [f"http://{host}/model.safetensors"], pause=0.0)
    assert str(stored(entry().sha256)) in str(caught.value)


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server) -> None:
    wanted = entry(urls=(server.url,))
    path = pull(wanted)
    path.write_bytes(BODY[::-1])
    assert pull(wanted).read_bytes() == BODY


def test_a_cache_that_cannot_be_written(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.joinpath("file").write_text("no folder")
    monkeypatch.setenv("TERRAMORPH_CACHE", str(cache.parent / "file"))
    with pytest.raises(StorageError, match=r"cannot be written .* TERRAMORPH_CACHE"):
        pull(entry(), [server.url])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root and Windows write everywhere")
def test_a_read_only_cache_serves_what_it_holds(server: Server, cache: Path) -> None:
    path = pull(entry(), [server.url])
    path.parent.chmod(0o500)
    try:
        assert pull(entry()) == path
        with pytest.raises(StorageError, match="cannot be written"):
            pull(entry(sha256="0" * 64), [server.url])
    finally:
        path.parent.chmod(0o700)


@pytest.mark.kills
def test_two_processes_at_once_fetch_once(server: Server, cache: Path, tmp_path: Path) -> None:
    server.gate.clear()
    code = (
        "import os, pathlib, sys; from terramorph.models import Entry, pull\n"
        "pathlib.Path(sys.argv[2], f'begun{os.getpid()}').touch()\n"
        "print(pull(Entry.model_validate_json(sys.argv[1]), pause=0.0))"
    )
    text = entry(urls=(server.url,)).model_dump_json()
    line = [sys.executable, "-c", code, text, str(tmp_path)]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    wait_until(lambda: server.asked and len(list(tmp_path.glob("begun*"))) == 2)
    time.sleep(0.5)  # the other asks too, if it does
    server.gate.set()
    paths = {process.communicate()[0].strip() for process in both}
    assert paths == {str(stored(entry().sha256))}
    assert stored(entry().sha256).read_bytes() == BODY
    assert len(server.asked) == 1
    assert left(cache) == [stored(entry().sha256).name]


def test_another_process_that_gets_no_further(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from terramorph.atomic import locked
    from terramorph.errors import RunError

    monkeypatch.setattr(store, "_PATIENCE", 0.2)
    stored(entry().sha256).parent.mkdir(parents=True)
    with (
        locked(stored(entry().sha256).with_suffix(".lock"), RuntimeError()),
        pytest.raises(RunError, match=r"Another process has been fetching .* for 0 s"),
    ):
        pull(entry(), [server.url])
    assert not server.asked
