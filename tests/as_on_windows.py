"""What Windows does differently, as far as another system can show it, and the core of the package run on it.

python as_on_windows.py FOLDER    # an empty folder to work in; it goes through or ends in a traceback

Code of terramorph finds no module and no name that is missing on Windows, sees the platform win32, and nothing at
/proc, /sys and /dev. Everybody finds that a file that is open or memory-mapped is neither removed nor replaced, nor a
folder that holds one, that some names cannot be given, that links need a right, and that processes are spawned.
"""

from __future__ import annotations

import builtins
import fcntl
import importlib
import io
import mimetypes
import multiprocessing
import os
import pkgutil
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

MISSING = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
"""Modules."""
WITHOUT = {
    "os": (
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "chown", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid",
        "getloadavg", "getpgid", "getuid", "killpg", "lchown", "mkfifo", "nice", "openpty", "posix_fadvise",
        "posix_fallocate", "pread", "preadv", "pwrite", "sched_getaffinity", "sched_setaffinity", "sendfile", "setsid",
        "statvfs", "sync", "sysconf", "uname", "wait", "wait4",
    ),
    "signal": (
        "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2",
        "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    ),
    "mmap": ("MADV_DONTNEED", "MAP_PRIVATE", "MAP_SHARED", "PROT_READ"),
    "time": ("tzset",),
    "socket": ("AF_UNIX", "SO_REUSEPORT", "fromfd"),
    "select": ("epoll", "poll"),
    "sys": (),
}  # fmt: skip
"""Names in modules."""
INSTEAD = {"os": {"name": "nt"}, "sys": {"platform": "win32"}}
RESERVED = re.compile(r'(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[<>:"|?*\x00-\x1f].*|.*[ .]')
"""Names that Windows gives to no file."""


class Without(ModuleType):
    """A module as it is on Windows."""

    def __init__(self, real: ModuleType) -> None:
        super().__init__(real.__name__)
        self._real = real
        vars(self).update(INSTEAD.get(real.__name__, {}))

    def __getattr__(self, name: str) -> Any:
        if name in WITHOUT[self.__name__]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._real, name)


def hide_modules() -> None:
    """For imports by terramorph from now on."""
    real = builtins.__import__
    instead = {name: Without(importlib.import_module(name)) for name in WITHOUT}

    def see(name: str, globals: Any = None, *more: Any, **named: Any) -> ModuleType:
        ours = str((globals or {}).get("__name__")).partition(".")[0] == "terramorph"
        if ours and name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        return instead[name] if ours and name in instead else real(name, globals, *more, **named)

    builtins.__import__ = see


def _held(path: str) -> bool:
    """Whether this process has a file open or mapped, or one in a folder."""
    path = os.path.realpath(path)
    with _open("/proc/self/maps", encoding="utf-8") as maps:
        held = [line.rstrip("\n").split(maxsplit=5)[-1] for line in maps]
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            held.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
        except OSError:
            continue
    return any(one == path or one.startswith(f"{path}/") for one in held)


def _refuse_held(change: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*paths: Any, **more: Any) -> Any:
        for path in paths[:2]:
            if isinstance(path, str | os.PathLike) and _held(os.fspath(path)):  # type: ignore[arg-type]
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        if change.__name__ in ("replace", "rename") and os.path.isdir(paths[1]):  # noqa: PTH112
            raise PermissionError(13, "Access is denied: there is such a folder", str(paths[1]))
        return change(*paths, **more)

    return changed


def _refuse_names(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(path: Any, *more: Any, **named: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            text = os.fspath(path)
            called = sys._getframe(1).f_globals.get("__name__", "")
            if text.startswith(("/proc", "/sys", "/dev")) and called.partition(".")[0] in ("terramorph", "pathlib"):
                raise FileNotFoundError(2, "No such file or directory", text)
            if any(RESERVED.fullmatch(part) for part in Path(text).parts if part not in ("/", "..")):
                raise OSError(22, "Invalid argument", text)
        return make(path, *more, **named)

    return made


def _refuse_read_only(sync: Callable[[int], None]) -> Callable[[int], None]:
    def synced(number: int) -> None:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        sync(number)

    return synced


def _refuse_links(*paths: Any, **more: Any) -> None:
    raise OSError(22, "A required privilege is not held by the client")


def hide_posix() -> None:
    """From now on, for everybody."""
    for name in ("replace", "rename", "remove", "unlink", "rmdir"):
        setattr(os, name, _refuse_held(getattr(os, name)))
    for name in ("mkdir", "open"):
        setattr(os, name, _refuse_names(getattr(os, name)))
    builtins.open = io.open = _refuse_names(io.open)  # type: ignore[assignment]
    os.symlink = _refuse_links
    os.fsync = _refuse_read_only(os.fsync)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    multiprocessing.set_start_method("spawn")
    mimetypes.add_type("text/plain", ".js")  # as a registry may say


_open = io.open


def use_the_core(folder: Path) -> None:
    """Import every module; prepare, train, go on, evaluate, translate, export."""
    import terramorph

    for module in pkgutil.walk_packages(terramorph.__path__, "terramorph."):
        if not module.name.startswith("terramorph.qgis.plugin"):  # it runs in QGIS only
            importlib.import_module(module.name)
    assert mimetypes.guess_type("viewer.js")[0] == "text/javascript"
    from terramorph.cli.app import run
    from terramorph.raster import write_image
    from terramorph.town import make_town

    os.chdir(folder)
    town = make_town(size_px=320, seed=0)
    write_image(town.aerial(), Path("ortho.tif"))
    write_image(town.map(), Path("drawn.tif"))
    tiny = "batch_size=2 device=cpu data.crop_size=64 generator.network=unet64 generator.width=4 discriminator.width=4"
    settings = " ".join(f"--set {setting}" for setting in tiny.split())
    lines = [
        "prepare pairs --source ortho.tif --target drawn.tif --tile 64",
        "prepare inspect pairs",
        f"train pairs --out run --cache cache --max-steps 2 --set data.load_size=72 {settings}",
        "train --resume run --cache cache --max-steps 3",
        "info run",
        "evaluate run pairs --split val --out scores",
        *["translate run ortho.tif map.tif --any-resolution --overwrite"] * 2,
        "translate run ortho.tif map.pmtiles --any-resolution",
        "translate run ortho.tif areas.gpkg --any-resolution",
        "translate run pairs/val images",
        "recalibrate run pairs --cache cache",
        "export run net.onnx",
        "doctor",
    ]
    for line in lines:
        code = run(line.split())
        assert code == 0, f"exit code {code} of: {line}"
    left = [path for path in Path().rglob(".*") if path.name not in (".prepare", ".tuned.json", ".lock")]
    assert not left, left


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=EncodingWarning)  # the encoding of Windows is none that a file has
    warnings.filterwarnings("error", category=EncodingWarning, module=r"terramorph\.")
    hide_modules()
    hide_posix()
    use_the_core(Path(sys.argv[1]))
