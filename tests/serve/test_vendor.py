"""The browser libraries in the repository are those that their manifests name."""

import subprocess
import sys
from pathlib import Path


def test_vendored_files_are_those_of_the_manifests() -> None:
    tool = Path(__file__).parents[2] / "tools" / "vendor.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
