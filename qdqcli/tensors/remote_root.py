"""The objects below a prefix as a checkpoint's folder. A store has no links: nothing leads out of it."""

from functools import cached_property
from typing import Self

from qdqcli.errors import InputError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.remote import folder_status, known, learn
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.root import NamedTarget
from qdqcli.tensors.system_error import blame_input


class RemoteRoot:
    """The folder at `path`, which is listed once, when it is first needed."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path

    def look_up(self, name: str) -> NamedTarget:
        """Return the status of an object or a folder.

        Raises:
            InputError: there is neither.
        """
        path = self.path / name
        described = known(path)
        if described is not None:
            return NamedTarget(described.status, None)
        if not name or name.strip("/") in self._folders:
            return NamedTarget(folder_status(path.key), None)
        with blame_input(path):
            return NamedTarget(path.stat(), None)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the files and folders in one folder, whose prefix is empty or ends with a slash."""
        return self._folders.get(prefix.strip("/"), [])

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        """Names in each folder, by its name."""
        with blame_input(self.path):
            objects = self.path.store.objects(self.path)
        found: dict[str, set[str]] = {}
        for name, described in objects.items():
            parts = name.split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise InputError(f"{show_path(self.path)}: the object '{escape_name(name)}' is not named like a file")
            learn(self.path / name, described)
            for depth, part in enumerate(parts):
                found.setdefault("/".join(parts[:depth]), set()).add(part)
        return {folder: sorted(names) for folder, names in found.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None: ...
