"""Models on the Hugging Face Hub: `hf://owner/name`, or `hf://owner/name@revision`.

A model is the file `model.safetensors` of a repository. It is kept under the digest of its content, beside the
published ones, with the digest of each revision, so that a fetched model works without a network. The token is
huggingface_hub's (`HF_TOKEN`, `hf auth login`) and is never written or shown here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from terramorph._version import __version__
from terramorph.atomic import write_text
from terramorph.cachefolder import cache_folder
from terramorph.errors import BundleError, RunError, warn
from terramorph.imports import needs
from terramorph.models.store import fetching, holds, not_written, stored

FILE = "model.safetensors"
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SPEC = re.compile(r"hf:/+([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_on_hub(spec: str | Path) -> bool:
    """Return whether a name is a model's name on the Hub."""
    return str(spec).startswith("hf:/")


def fetch(spec: str | Path) -> Path:
    """Return the file of a model on the Hub, fetched unless its content is on this machine.

    The newest commit of a branch is requested each time; without a network its last known content is used. A commit is
    requested once.

    Args:
        spec: hf://owner/name, hf://owner/name@revision.

    Raises:
        BundleError: If there is no such model, it may not be seen, it cannot be reached and is not here, or what came
            is not what the Hub said.
        MissingPackageError: If huggingface_hub is not installed.
        StorageError: If the cache cannot be written.
    """
    match = _SPEC.fullmatch(str(spec))
    if match is None:
        raise BundleError(f"{spec} is not a model of the Hub; write it as hf://owner/name or hf://owner/name@revision.")
    repo, revision = match[1], match[2] or "main"
    pointer = cache_folder() / "models" / "hub" / repo / quote(revision, safe="")
    known = _pointed(pointer)
    if known is not None and _COMMIT.fullmatch(revision):
        return known
    api = _api()
    try:
        url = f"{api.endpoint}/{repo}/resolve/{quote(revision, safe='')}/{FILE}"
        sha256 = str(api.get_hf_file_metadata(url=url).etag)
        if not _SHA256.fullmatch(sha256):
            raise BundleError(f"The {FILE} of {repo} is not a large file there, so it is not a model; choose another.")
        if not holds(stored(sha256), sha256):
            _download(api, repo, revision, sha256)
    except Exception as error:
        if known is not None and _is_out_of_reach(error):
            warn(f"The Hub cannot be reached; the copy of {repo} that was fetched before is used.")
            return known
        raise _refused(error, repo, revision) from None  # the library's words may hold more than they should
    if known != stored(sha256):  # so that a cache that is only read serves what it holds
        write_text(pointer, sha256, make_folder=True)
    return stored(sha256)


def upload(repo: str, files: Mapping[str, Path | bytes], *, private: bool = False) -> str:
    """Upload files to a model repository in one commit; the repository is made if it does not exist.

    Args:
        repo: owner/name.
        files: Name there -> file or content.
        private: Make a new repository private; an existing one must be private already.

    Returns:
        The address of the repository.

    Raises:
        BundleError: If there is no token, it may not write there, or the repository is public and a private one is
            wanted.
        RunError: If the Hub cannot be reached or refuses the files.
        MissingPackageError: If huggingface_hub is not installed.
    """
    if not _REPO.fullmatch(repo):
        raise BundleError(f"{repo} is not the name of a model on the Hub; give owner/name: letters, digits, - _ and .")
    api = _api()
    from huggingface_hub import CommitOperationAdd

    try:
        place = api.create_repo(repo, private=private or None, exist_ok=True)  # None: as its owner has it
        if private and not api.repo_info(place.repo_id).private:
            raise BundleError(f"{place.repo_id} is public on the Hub; make it private there, or leave `private` out.")
        operations = [CommitOperationAdd(name, source) for name, source in files.items()]
        api.create_commit(place.repo_id, operations, commit_message=f"Upload by terramorph {__version__}")
    except Exception as error:
        raise _refused(error, repo) from None
    return str(place)


def _download(api: Any, repo: str, revision: str, sha256: str) -> None:
    """Download the file; it appears whole under the digest of its content."""
    with fetching(sha256, repo) as target:
        if holds(target, sha256):
            return  # another process has brought it
        folder = target.with_suffix(".hub")
        file = Path(api.hf_hub_download(repo, FILE, revision=revision, local_dir=folder))
        right = holds(file, sha256)
        if right:
            file.replace(target)
        shutil.rmtree(folder, ignore_errors=True)
    if not right:
        raise BundleError(f"What came of {repo} is not what the Hub said (its sha256 is another); try again.")


def _pointed(pointer: Path) -> Path | None:
    """Return the content that a revision had when last asked for, if it is here and whole."""
    if not pointer.is_file():
        return None
    sha256 = pointer.read_text(encoding="utf-8").strip()
    return stored(sha256) if holds(stored(sha256), sha256) else None


def _api() -> Any:
    """Return huggingface_hub's client, which finds address and token by itself."""
    with needs("huggingface_hub", "hub"):
        from huggingface_hub import HfApi
    return HfApi(library_name="terramorph", library_version=__version__)


def _status(error: Exception) -> int | None:
    """Return the HTTP status with which the Hub refused, from an error or its causes; None without an answer."""
    for one in _chain(error):
        code = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(code, int):
            return code
    return None


def _is_out_of_reach(error: Exception) -> bool:
    """Return whether the network, or the Hub as a whole, is the reason."""
    status = _status(error)
    if status is not None:
        return status >= 500
    kinds = (type(one) for one in _chain(error))
    return any(issubclass(one, ConnectionError | TimeoutError) or one.__module__.startswith("http") for one in kinds)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(error: Exception, repo: str, revision: str = "") -> BundleError | RunError:
    """Convert an error of the Hub to one of ours, in our words alone."""
    if isinstance(error, BundleError | RunError):
        return error
    if isinstance(error, OSError) and error.errno and error.filename:
        return not_written(str(error.strerror))
    kind, status = type(error).__name__, _status(error)
    login = "log in with `hf auth login`, or set HF_TOKEN"
    if kind == "HFValidationError":
        return BundleError(f"{repo} is not the name of a model on the Hub; give owner/name: letters, digits, - _ and .")
    if kind == "RevisionNotFoundError":
        return BundleError(f"The model {repo} has no revision {revision} on the Hub; name a branch, a tag or a commit.")
    if kind == "RemoteEntryNotFoundError":
        return BundleError(f"The model {repo} holds no {FILE}, so it is none of terramorph's; choose another.")
    if status in (401, 403, 404) or kind == "LocalTokenNotFoundError":
        return BundleError(
            f"The Hub shows no {repo} to you, or does not let you write there; check the name, and {login}."
        )
    if kind == "OfflineModeIsEnabled":
        return BundleError(f"{repo} is not on this machine, and HF_HUB_OFFLINE forbids to ask for it; unset it.")
    if _is_out_of_reach(error):
        return RunError(f"The Hub cannot be reached for {repo} ({kind}); connect to the network and try again.")
    return RunError(f"The Hub refuses {repo} ({status or kind}); check the name and your rights, or try again later.")
