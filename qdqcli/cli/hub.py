"""Advice for a model id of the Hugging Face Hub given instead of a path."""

import re
from pathlib import Path

from qdqcli.escape import show_path
from qdqcli.tensors.checkpoint import FORMATS
from qdqcli.tensors.hub import HUB_ID, cache_folder, repository_name, snapshot_of


def advice_on(argument: str) -> str | None:
    """Return the advice for `argument`, which is not a path, if it may be a model id; else None."""
    hub_id = re.sub(r"^https://huggingface\.co/", "", argument, flags=re.IGNORECASE)
    if not HUB_ID.fullmatch(hub_id):
        return None
    snapshot = snapshot_of(cache_folder() / repository_name(hub_id))
    if snapshot is not None:
        return f"the model of this id is in the local Hugging Face cache: give {show_path(snapshot)}"
    folder, _, name = hub_id.rpartition("/")
    if not folder or Path(folder).is_dir() or Path(name).suffix.lower() in FORMATS:  # a mistyped file name
        return None
    return f"if it is a Hugging Face id: hf download {hub_id} --local-dir {name}"
