"""Fetches the browser libraries that pages carry from the npm registry, and writes down what they are.

    python tools/vendor.py          # fetch, check and copy again
    python tools/vendor.py --check  # compare the files with the manifest, without a network

What is vendored is named in vendor.toml beside the files: package, version, the registry's integrity hash of the
tarball, licence, and the SHA-256 of each file. What ends in .gz is compressed here, and its SHA-256 is that
of what it holds. What a tarball lacks, such as a licence, stands under `added` and stays as it is.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MANIFESTS = tuple(
    ROOT / folder / "vendor.toml"
    for folder in ("src/terramorph/serve/static/vendor", "src/terramorph/draw/static/vendor", "tests/vendor")
)


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
        target.mkdir(exist_ok=True)
        for path in target.iterdir():
            if path.name not in package.get("added", {}):
                path.unlink()
        for file in package["files"]:
            name = file.removesuffix(".gz")
            built, root = (Path(folder) / "package" / where / name for where in (package["folder"], ""))
            content = (built if built.is_file() else root).read_bytes()
            (target / file).write_bytes(content if name == file else gzip.compress(content, mtime=0))


def differences(folder: Path, package: dict[str, Any]) -> list[str]:
    """A line for each file that is not what the manifest says."""
    lines = []
    files = package["files"] | package.get("added", {})
    for file, wanted in files.items():
        path = folder / file
        found = hashlib.sha256(_content(path)).hexdigest() if path.is_file() else "missing"
        if found != wanted:
            lines.append(f"{folder.name}/{file}: {found} instead of {wanted}")
    lines += [
        f"{folder.name}/{path.name} is not in the manifest" for path in folder.iterdir() if path.name not in files
    ]
    return lines


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
