"""Paths of objects in a store, `s3://BUCKET/KEY`: a `Path` whose calls to the file system go to the store.

The same code then handles local and remote files. What a path shows never holds a secret: the query of a signed URL
and a password in it are kept apart, in this process alone.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Self

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import escape_name

if TYPE_CHECKING:
    from qdqcli.tensors.remote import Remote

STORES = ("s3", "gs", "az")
"""Schemes of object stores, which can be listed and written."""
WEB = ("https", "http")
"""Schemes of servers, from which single files are read."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)

_signed: dict[str, str] = {}
"""URL as it is shown -> URL with its query and password."""


class RemotePath(PosixPath):
    """The path of an object, or of the objects below a prefix, which stands for a folder.

    Errors of the store are `OSError` with the number that a file system would give.
    """

    @property
    def scheme(self) -> str:
        return self.parts[0][:-1]

    @property
    def is_listable(self) -> bool:
        """True in an object store; a server tells nothing about the files that it has."""
        return self.scheme in STORES

    @property
    def bucket(self) -> str:
        return self.parts[1] if len(self.parts) > 1 else ""

    @property
    def key(self) -> str:
        """Name of the object in its bucket, or the prefix of a folder."""
        return "/".join(self.parts[2:])

    @property
    def signed_url(self) -> str:
        """The URL with its secrets: never for a message."""
        return _signed.get(str(self), str(self))

    @property
    def is_signed(self) -> bool:
        """True if the URL has a secret, which only this process knows."""
        return bool(re.search(r"\?|//[^/]*@", self.signed_url)) and self.scheme in WEB

    @property
    def store(self) -> "Remote":
        """The store of the object.

        Raises:
            UnavailableError: the extra is not installed.
        """
        from qdqcli.tensors.remote import Remote  # lazy: obstore is an extra

        return Remote.of(self)

    def __str__(self) -> str:
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}" if self.parts else "."

    def __fspath__(self) -> str:
        return str(self)

    def relative_to(self, *other: str | os.PathLike[str]) -> Path:  # type: ignore[override]
        return Path(*super().relative_to(*other).parts)

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002 - there are no links
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:  # noqa: ARG002
        return self.store.status(self)

    def lstat(self) -> os.stat_result:
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:  # noqa: ARG002
        try:
            self.stat()
        except (FileNotFoundError, PermissionError):  # servers hide what may not be listed behind either
            return False
        return True

    def is_file(self, **_: object) -> bool:
        try:
            self.store.describe(self)
        except (FileNotFoundError, PermissionError):
            return False
        return True

    def is_dir(self, **_: object) -> bool:
        return self.is_listable and self.store.has_below(self)

    def is_symlink(self) -> bool:
        return False

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: ARG002 - stores do not tell
        self.store.delete([self])

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    def rmdir(self) -> None:
        """Do nothing: a store has no folders."""


def is_url(text: str) -> bool:
    """Tell whether a text has the form of a URL."""
    return _URL.match(text) is not None


def path_from(text: str) -> Path:
    """Return the path that a text from the user names, local or remote; of `hf://` one in the local cache.

    Raises:
        InputError: a URL of an unknown scheme, or without a host or bucket.
        UnavailableError: the model of `hf://` is not in the cache.
    """
    match = _URL.fullmatch(text)
    if match is None or os.path.lexists(text):
        return Path(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme in WEB:
        return _web_path(scheme, text)
    if scheme == "hf":
        from qdqcli.tensors.hub import cached_path  # lazy: it reads files, by the paths of this module

        return cached_path(rest)
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in (*STORES, "hf", WEB[0]))
        raise InputError(f"{shown_url(text)}: URLs of this kind are not read; give a path, or a URL of {known}")
    path = RemotePath(f"{scheme}:", *rest.split("/"))
    if not path.bucket:
        raise InputError(f"{escape_name(text)}: names no bucket; give {scheme}://BUCKET/NAME")
    if ".." in path.parts:
        raise InputError(f"{escape_name(text)}: '..' leads nowhere in a store; give the whole name of the object")
    return path


def output_path(text: str) -> Path:
    """Return the path that a text from the user names for an output.

    Raises:
        UsageError: a URL of what cannot be written.
    """
    match = _URL.fullmatch(text)
    if match is not None and match[1].lower() not in STORES:
        known = ", ".join(f"{name}://" for name in STORES)
        raise UsageError(f"{shown_url(text)}: cannot be written; give a path, or a URL of {known}")
    path = path_from(text)
    if isinstance(path, RemotePath) and not path.key:
        raise UsageError(f"{escape_name(text)}: names only a bucket; give the name of a file or folder in it")
    return path


def _web_path(scheme: str, text: str) -> RemotePath:
    from urllib.parse import urlsplit, urlunsplit  # lazy: local files do not need it

    parts = urlsplit(text)
    if not parts.hostname or not parts.path.strip("/"):
        raise InputError(f"{shown_url(text)}: names no file; give {scheme}://HOST/FILE")
    host = parts.netloc.rpartition("@")[2]
    path = RemotePath(f"{scheme}:", host, *parts.path.split("/"))
    _signed[str(path)] = urlunsplit((scheme, parts.netloc, parts.path, parts.query, ""))
    return path


def shown_url(text: str) -> str:
    """Return a text for a message: of a URL without its query, fragment and password."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", re.sub(r"(://[^?#\s]*)[?#]\S*", r"\1", escape_name(text, len(text))))


def shown_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command line, for a file: URLs without their secrets."""
    return [shown_url(argument) if _URL.match(argument) else argument for argument in arguments]
