"""Fetches the browser libraries that pages carry from the npm registry, and writes down what they are.

    python tools/vendor.py          # fetch, check and copy again
    python tools/vendor.py --check  # compare the files with the manifest, without a network

What is vendored is named in vendor.toml beside the files: package, version, the registry's integrity hash of the
tarball, licence, and the SHA-256 of each file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MANIFESTS = (ROOT / "src/terramorph/serve/static/vendor/vendor.toml", ROOT / "tests/vendor/vendor.toml")


def main() -> int:
    """Exit code 0 if the files are those of the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    wrong: list[str] = []
    for manifest in MANIFESTS:
        for name, package in tomllib.loads(manifest.read_text()).items():
            folder = manifest.parent / name
            if not check:
                fetch(folder, package)
            wrong += differences(folder, package)
    print("\n".join(wrong) or "The vendored files are those of the manifest.")
    return 1 if wrong else 0


def fetch(target: Path, package: dict[str, Any]) -> None:
    """Copies a package's files out of the registry's tarball, whose integrity hash is the manifest's."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", f"{target.name}@{package['version']}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (tarball,) = Path(folder).glob("*.tgz")
        kind, _, wanted = package["integrity"].partition("-")
        found = base64.b64encode(hashlib.new(kind, tarball.read_bytes()).digest()).decode()
        if found != wanted:
            raise SystemExit(f"{target.name}: the tarball's {kind} is {found}, and the manifest says {wanted}.")
        with tarfile.open(tarball) as archive:
            archive.extractall(folder, filter="data")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in package["files"]:
            built, root = (Path(folder) / "package" / where / file for where in (package["folder"], ""))
            shutil.copyfile(built if built.is_file() else root, target / file)


def differences(folder: Path, package: dict[str, Any]) -> list[str]:
    """A line for each file that is not what the manifest says."""
    lines = []
    for file, wanted in package["files"].items():
        path = folder / file
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != wanted:
            lines.append(f"{folder.name}/{file}: {found} instead of {wanted}")
    lines += [
        f"{folder.name}/{path.name} is not in the manifest"
        for path in folder.iterdir()
        if path.name not in package["files"]
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
