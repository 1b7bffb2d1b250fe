"""The local cache of the Hugging Face Hub: `models--ORG--NAME` with `blobs`, `refs` and `snapshots`.

The files of a revision are links in `snapshots/REV` to files without suffix in `blobs`.

Source: huggingface.co/docs/hub/local-cache.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import show_path
from qdqcli.tensors.storage import InputFile

BLOBS, SNAPSHOTS = "blobs", "snapshots"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
"""Pattern of a model id: `gpt2`, `ORG/NAME`."""


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
        with InputFile(repository / "refs" / "main") as file:
            main = file.read(0, 255).decode("ascii", "replace").strip()
    except OSError:
        return None
    except InputError:
        main = ""
    chosen = [main] if main in names else names
    return repository / SNAPSHOTS / chosen[0] if len(chosen) == 1 else None


def repository_name(hub_id: str) -> str:
    """Return the name of a model's folder in the cache."""
    return "--".join(["models", *hub_id.split("/")])
