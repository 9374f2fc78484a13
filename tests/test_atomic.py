"""Files appear whole or not at all, whatever happens on the way."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from terramorph import atomic as atomic_module
from terramorph.atomic import HOST, _host, _swept, atomic, atomic_folder
from terramorph.errors import ConfigError, StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("before")
    return path


def test_the_file_is_on_the_disk_and_then_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(atomic_module.os, "fsync", lambda number: synced.append(path.read_text(encoding="utf-8")))
    with atomic(path) as part:
        assert part.parent == path.parent
        assert f".{os.getpid()}-" in part.name
        assert re.fullmatch(r"\..*\.part", part.name)
        part.write_text("after")
        assert path.read_text(encoding="utf-8") == "before"
    assert synced == ["before"]
    assert path.read_text(encoding="utf-8") == "after"
    assert list(path.parent.iterdir()) == [path]


def fail(path: Path, error: BaseException) -> None:
    with atomic(path) as part:
        part.write_text("half")
        raise error


def test_files_have_the_usual_rights_though_a_library_made_them_for_their_owner_alone(path: Path) -> None:
    with atomic(path.with_name("usual")) as part:
        part.write_text("a")
    with atomic(path) as part:
        part.touch(0o600)
    assert path.stat().st_mode == path.with_name("usual").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), ConfigError("no"), SystemExit(3)])
def test_an_exception_passes_and_the_part_is_removed(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(path, error)
    assert path.read_text(encoding="utf-8") == "before"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_is_a_sentence(path: Path) -> None:
    with pytest.raises(StorageError) as told:
        fail(path, OSError(28, "No space left on device"))
    assert str(told.value) == (
        f"{path} cannot be written (No space left on device); free some space or choose another folder."
    )
    with pytest.raises(StorageError, match=r"^The letter is lost \(full\); buy a disk\.$"):  # noqa: SIM117
        with atomic(path, "The letter is lost", "buy a disk", failures=(ZeroDivisionError,)):
            raise ZeroDivisionError("full")
    assert path.read_text(encoding="utf-8") == "before"
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with pytest.raises(StorageError, match=r"there is no folder .*deep"), atomic(path) as part:
        part.write_text("x")
    with atomic(path, make_folder=True) as part:
        part.write_text("x")
    assert path.read_text() == "x"
    with pytest.raises(StorageError, match=r"b\.txt cannot be written"):  # noqa: SIM117
        with atomic(path / "b.txt", make_folder=True) as part:
            part.write_text("x")


@pytest.mark.kills
def test_parts_of_killed_processes_are_swept_and_others_stay(path: Path) -> None:
    code = (
        "import os, sys\n"
        "from terramorph.atomic import atomic\n"
        "with atomic(sys.argv[1]) as part:\n"
        "    part.write_text('half')\n"
        "    print(part, flush=True)\n"
        "    sys.stdin.read(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    part_of_other = Path(process.stdout.readline().strip())
    with atomic(path) as part:
        part.write_text("first")
    assert part_of_other.is_file()  # its process still writes it
    _swept.clear()  # as in a process that has not been here yet
    process.kill()
    process.communicate()
    assert part_of_other.is_file()
    elsewhere = path.with_name(".a.txt.1-00000000-0.part")  # of another machine that shares the folder
    elsewhere.write_text("half")
    with atomic(path) as part, atomic(path) as twin:
        part.write_text("second")
        twin.write_text("third")
        _swept.clear()
        with atomic(path.with_name("b.txt")) as another:
            another.write_text("fourth")
        assert part.is_file(), "a part that is being written was swept"
        path.with_name("b.txt").unlink()
    assert path.read_text(encoding="utf-8") == "second"
    assert sorted(path.parent.iterdir()) == sorted([path, elsewhere])


def fill(path: Path, error: BaseException) -> None:
    with atomic_folder(path) as part:
        (part / "a.txt").write_text("half")
        raise error


def test_folders_appear_whole_and_those_of_dead_processes_are_swept(tmp_path: Path) -> None:
    left = tmp_path / f".map.{2**22 + 1}-{HOST}-0.part"
    (left / "3" / "1").mkdir(parents=True)
    elsewhere = tmp_path / f".map.{2**22 + 1}-00000000-0.part"
    elsewhere.mkdir()
    with pytest.raises(ConfigError, match="no"):
        fill(tmp_path / "map", ConfigError("no"))
    assert list(tmp_path.iterdir()) == [elsewhere]
    with atomic_folder(tmp_path / "map") as part:
        (part / "a.txt").write_text("whole")
        assert not (tmp_path / "map").exists()
    assert (tmp_path / "map" / "a.txt").read_text() == "whole"
    with pytest.raises(StorageError, match="cannot be written"), atomic_folder(tmp_path / "map"):
        pass


def test_containers_of_one_name_are_different_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _host() == HOST
    monkeypatch.setattr(Path, "readlink", lambda _: Path("pid:[1]"))
    assert _host() != HOST


class Kernel:
    """Answers as kernel32 of Windows: a process runs, has ended, is another user's, or is not there."""

    RUNS, ENDED, FORBIDDEN = 8, 12, 16

    def __init__(self) -> None:
        self.error, self.opened = 0, 0

    @property
    def OpenProcess(self) -> Any:
        def opened(access: int, inherited: bool, process: int) -> int | None:
            assert (access, inherited) == (0x1000, False)
            self.error = {self.RUNS: 0, self.ENDED: 0, self.FORBIDDEN: 5}.get(process, 87)
            self.opened += not self.error
            return None if self.error else process

        return opened

    def GetExitCodeProcess(self, handle: ctypes.c_void_p, code: Any) -> int:
        code._obj.value = 259 if handle.value == self.RUNS else 1
        return 1

    def CloseHandle(self, handle: ctypes.c_void_p) -> None:
        self.opened -= 1


@pytest.mark.parametrize(("process", "runs"), [(8, True), (12, False), (16, True), (20, False)])
def test_whether_a_process_runs_is_asked_as_windows_wants_it(
    monkeypatch: pytest.MonkeyPatch, process: int, runs: bool
) -> None:
    kernel = Kernel()
    monkeypatch.setattr(atomic_module.sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, use_last_error: kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: kernel.error, raising=False)
    assert atomic_module.is_running(process) is runs
    assert kernel.opened == 0
