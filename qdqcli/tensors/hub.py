"""The local cache of the Hugging Face Hub: `models--ORG--NAME` with `blobs`, `refs` and `snapshots`.

The files of a revision are links in `snapshots/REV` to files without suffix in `blobs`.

Source: huggingface.co/docs/hub/local-cache.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

from qdqcli.errors import InputError, UnavailableError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.input_file import InputFile

BLOBS, SNAPSHOTS = "blobs", "snapshots"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
"""Pattern of a model id: `gpt2`, `ORG/NAME`."""
_HUB_URL = re.compile(rf"(?P<id>{HUB_ID.pattern})(@(?P<revision>\w[\w.-]*))?(/(?P<file>.+))?", re.ASCII)


def is_repository(folders: Collection[str]) -> bool:
    """Tell whether a folder with these subfolders is the cache of one repository."""
    return BLOBS in folders and SNAPSHOTS in folders


def repository_error(path: Path) -> InputError:
    """Return the error for a repository's cache given as a checkpoint; suggests a snapshot."""
    snapshot = snapshot_of(path)
    what = f"give its snapshot {show_path(snapshot)}" if snapshot else f"give a folder of {show_path(path / SNAPSHOTS)}"
    return InputError(f"{show_path(path)}: is a cache of the Hugging Face Hub, not a checkpoint; {what}")


def snapshot_of(repository: Path) -> Path | None:
    """Return the snapshot of `main`, or the only snapshot; None if there is neither."""
    try:
        names = sorted(os.listdir(repository / SNAPSHOTS))  # noqa: PTH208 - names are enough
    except OSError:
        return None
    main = _read_ref(repository / "refs" / "main")
    chosen = [main] if main in names else names
    return repository / SNAPSHOTS / chosen[0] if len(chosen) == 1 else None


def cached_path(name: str) -> Path:
    """Return the file or folder in the cache that `hf://NAME` names: `ORG/NAME[@REVISION][/FILE]`.

    Raises:
        InputError: that is no name of a model.
        UnavailableError: the cache has no weights of it.
    """
    found = _HUB_URL.fullmatch(name.rstrip("/"))
    if found is None:
        raise InputError(f"hf://{escape_name(name)}: is no name of a model; give hf://ORG/NAME")
    hub_id, revision, file = found["id"], found["revision"], found["file"]
    repository = cache_folder() / repository_name(hub_id)
    snapshot = snapshot_of(repository) if revision is None else _snapshot_at(repository, revision)
    path = None if snapshot is None else snapshot / (file or "")
    if path is None or not (path.is_file() or next(path.rglob("*.safetensors"), None)):
        raise UnavailableError(
            f"hf://{escape_name(name)}: is not in the local Hugging Face cache; hf download {escape_name(hub_id)}"
            + (f" --revision {escape_name(revision)}" if revision else "")
        )
    return path


def cache_folder() -> Path:
    """Return the cache folder of huggingface_hub."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = os.environ.get("HF_HUB_CACHE") or f"{os.environ.get('HF_HOME') or f'{home}/huggingface'}/hub"
    return Path(cache).expanduser()


def _snapshot_at(repository: Path, revision: str) -> Path | None:
    """Return the snapshot of a branch, a tag or a commit; None if there is none."""
    commit = _read_ref(repository / "refs" / revision) or revision
    snapshot = repository / SNAPSHOTS / commit
    return snapshot if snapshot.is_dir() else None


def _read_ref(path: Path) -> str:
    try:
        with InputFile(path) as file:
            return file.read(0, 255).decode("ascii", "replace").strip()
    except InputError:
        return ""


def repository_name(hub_id: str) -> str:
    """Return the name of a model's folder in the cache."""
    return "--".join(["models", *hub_id.split("/")])
