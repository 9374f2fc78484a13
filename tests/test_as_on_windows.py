"""The core of the package runs where there is no POSIX, as far as Linux can show it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("as_on_windows.py")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux which files are held")


def test_the_core_works(tmp_path: Path) -> None:
    line = [sys.executable, "-X", "warn_default_encoding", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (tmp_path / "areas.gpkg").is_file()


ATTEMPTS = {
    "import resource": "ModuleNotFoundError",
    "from os import fork": "ImportError",
    "import os; os.sched_getaffinity(0)": "AttributeError",
    "import signal; signal.SIGKILL": "AttributeError",
    "import sys; assert sys.platform != 'win32'": "AssertionError",
    "import pathlib; pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')": "FileNotFoundError",
    "import pathlib; pathlib.Path('a:b').touch()": "OSError",
    "import pathlib; pathlib.Path('aux.png').write_bytes(b'')": "OSError",
    "import pathlib; pathlib.Path('c').symlink_to('b')": "OSError",
    "import pathlib; f = pathlib.Path('d').open('wb'); pathlib.Path('d').unlink()": "PermissionError",
    "import numpy, pathlib; pathlib.Path('e').write_bytes(b'1' * 9); pathlib.Path('f').touch(); "
    "mapped = numpy.memmap('e', mode='r'); pathlib.Path('f').replace('e')": "PermissionError",
    "import os; number = os.open('g', os.O_CREAT | os.O_RDONLY); os.fsync(number)": "OSError",
}


def test_what_windows_refuses_is_refused(tmp_path: Path) -> None:
    code = (
        "import as_on_windows, json, os, sys\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "as_on_windows.hide_modules()\nas_on_windows.hide_posix()\n"
        f"for attempt in {list(ATTEMPTS)!r}:\n"
        "    try: exec(attempt, {'__name__': 'terramorph.somewhere', '__builtins__': __builtins__})\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "    else: print('nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert dict(zip(ATTEMPTS, done.stdout.split(), strict=True)) == ATTEMPTS
