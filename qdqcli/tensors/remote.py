"""Objects in stores and on servers, through obstore: ranges guarded by ETag, listings, uploads.

Errors are `OSError` with the number that a file system would give, so that callers treat both alike; their text is
ours, since that of the library holds the whole URL. Credentials come from where the store's own tools look: the
environment, the profiles of `~/.aws` (`aws_profile.py`), the metadata service of the machine.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from glob import has_magic
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from qdqcli.errors import InputError, UnavailableError
from qdqcli.escape import show_path
from qdqcli.tensors.remote_path import WEB, RemotePath

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, ObjectMeta
    from obstore.store import ObjectStore

Result = TypeVar("Result")

HEAD_BYTES = 64 << 10
"""Bytes of the first request for an object: most headers are shorter, and one request takes longer than the rest."""
CONNECTIONS = 8
"""Requests at once; one connection of a store gives 50 to 100 MB/s."""
RETRY_S = 120.0
"""Seconds for which a request is repeated while its server is gone."""
FIRST_RETRY_S = 10.0
"""The same before the server has answered once: the address may be wrong."""
PART_BYTES = 8 << 20
"""Size of the parts of an upload; stores take 5 MiB to 5 GiB."""
MAX_PARTS = 9_000
"""Stores take 10,000 parts."""
UPLOADS = 4
"""Parts of an upload in flight."""
EXTRA = "pip install 'qdqcli[remote]'"


class Object(NamedTuple):
    """Description of an object at one time."""

    size: int
    """Size in bytes."""
    etag: str
    """The store's name of this content, without quotes; empty where the server gives none."""
    modified: datetime

    @classmethod
    def of(cls, meta: "ObjectMeta") -> "Object":
        # A listing tells milliseconds, a request for the object whole seconds.
        return cls(meta["size"], (meta["e_tag"] or "").strip('"'), meta["last_modified"].replace(microsecond=0))

    @property
    def status(self) -> os.stat_result:
        """The description as that of a file; the inode stands for the ETag."""
        return _status(stat.S_IFREG | 0o666, _hash(self.etag), self.size, int(self.modified.timestamp()))


class Remote:
    """A bucket, or a file on a server.

    Raises:
        UnavailableError: the extra is not installed.
    """

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._has_answered = False
        try:
            import obstore  # noqa: F401
        except ModuleNotFoundError:
            raise UnavailableError(f"{show_path(path)}: URLs need the package obstore; {EXTRA}") from None

    @staticmethod
    def of(path: RemotePath) -> "Remote":
        """Return the store of a path, the same for all objects of a bucket."""
        return _remote(path if path.scheme in WEB else RemotePath(*path.parts[:2]))

    def open(self, path: RemotePath) -> tuple[Object, bytes]:
        """Return the description of an object and its first `HEAD_BYTES`, by one request."""
        from obstore.exceptions import BaseError

        with self._asked(path) as store:
            try:
                found = store.get(self._key(path), options={"range": (0, HEAD_BYTES)})
                return Object.of(found.meta), bytes(found.bytes())
            except BaseError as error:
                if _code(error) != 416:  # no first byte: the object is empty
                    raise
                return Object.of(store.head(self._key(path))), b""

    def read(self, path: RemotePath, described: Object, start: int, stop: int) -> "Bytes":
        """Return the bytes from `start` to `stop` of the object that was described before.

        Raises:
            InputError: another object has its name now.
        """
        options: GetOptions = {"range": (start, stop)}
        if described.etag:
            options["if_match"] = f'"{described.etag}"'
        else:
            options["if_unmodified_since"] = described.modified
        with self._asked(path) as store:
            found = store.get(self._key(path), options=options)
            # Not every server heeds a condition.
            if Object.of(found.meta) != described:
                raise _replaced(path)
            data = found.bytes()
            if len(data) != stop - start:
                raise OSError(errno.EIO, f"the server sent {len(data)} bytes of {stop - start}")
            return data

    def describe(self, path: RemotePath) -> Object:
        """Return the description of an object as it is now."""
        with self._asked(path) as store:
            return Object.of(store.head(self._key(path)))

    def status(self, path: RemotePath) -> os.stat_result:
        """Return the status of the object now, or of the folder.

        Raises:
            OSError: there is neither, or the server does not answer.
        """
        try:
            return self.describe(path).status
        except FileNotFoundError:
            if not path.is_listable or not self.has_below(path):
                raise
            return folder_status(path.key)

    def has_below(self, path: RemotePath) -> bool:
        """Tell whether there are objects below the path."""
        return next(self._list(path, 2), None) is not None

    def objects(self, path: RemotePath) -> dict[str, Object]:
        """Return all objects below a folder, by name relative to it."""
        return dict(sorted(self._list(path)))

    def _list(self, path: RemotePath, chunk_size: int = 1000) -> Iterator[tuple[str, Object]]:
        prefix = f"{path.key}/" if path.key else ""
        with self._asked(path) as store:
            for chunk in store.list(prefix=path.key or None, chunk_size=chunk_size):
                for meta in chunk:
                    name = meta["path"].removeprefix(prefix)
                    # Some tools mark a folder by an empty object of its name.
                    if name != meta["path"] or not prefix:
                        yield name, Object.of(meta)

    def update(self, path: RemotePath, data: bytes, described: Object) -> None:
        """Write a small object in place of the one that was described before.

        Raises:
            InputError: another object has its name now.
        """
        with self._asked(path) as store:
            store.put(self._key(path), data, mode={"e_tag": f'"{described.etag}"'})

    def put(self, path: RemotePath, data: bytes) -> None:
        """Write a small object, over any that is there."""
        with self._asked(path) as store:
            store.put(self._key(path), data, use_multipart=False)

    def create(self, path: RemotePath, data: bytes) -> None:
        """Write a small object.

        Raises:
            FileExistsError: there is one.
        """
        with self._asked(path) as store:
            store.put(self._key(path), data, mode="create")

    def upload(self, path: RemotePath, file: IO[bytes], size: int) -> None:
        """Write a file, in parts if it is large; the object appears whole or not at all."""
        part = max(PART_BYTES, -(-size // MAX_PARTS))
        with self._asked(path) as store:
            store.put(self._key(path), file, use_multipart=size > part, chunk_size=part, max_concurrency=UPLOADS)

    def delete(self, paths: Sequence[RemotePath]) -> None:
        """Delete objects; those that are not there do not matter."""

        def delete(path: RemotePath) -> None:
            with suppress(FileNotFoundError), self._asked(path) as store:
                store.delete(self._key(path))

        for future in [submit(delete, path) for path in paths]:
            future.result()

    def _key(self, path: RemotePath) -> str:
        return "" if path.scheme in WEB else path.key

    @contextmanager
    def _asked(self, path: RemotePath) -> Iterator["ObjectStore"]:
        """Yield the store for a request; its errors become an `OSError` without URL, headers and credentials."""
        retry_s = RETRY_S if self._has_answered else min(FIRST_RETRY_S, RETRY_S)
        with _translated(path, retry_s):
            yield _store_of(self._path, retry_s)
        self._has_answered = True


@cache
def _remote(path: RemotePath) -> Remote:
    return Remote(path)


_known: dict[str, tuple[Object, bytes]] = {}
"""URL -> description and first bytes of objects that were listed or opened, so that opening again needs no request."""
_lock = Lock()


def known(path: RemotePath) -> Object | None:
    """Return the last description of an object; None if there is none."""
    with _lock:
        found = _known.get(str(path))
    return None if found is None else found[0]


def learn(path: RemotePath, described: Object, first: bytes = b"") -> None:
    """Remember the description of an object and its first bytes, which are given out once."""
    with _lock:
        _known[str(path)] = described, first


def opened(path: RemotePath, *, is_expected: bool) -> tuple[Object, bytes]:
    """Return the description of an object and its first bytes, by a request where neither is known.

    `is_expected`: the caller compares the description with an earlier one, so that the last one will do.
    """
    with _lock:
        found = _known.pop(str(path), None)
    if found is None or not (found[1] or is_expected):
        found = path.store.open(path)
    learn(path, found[0])
    return found


def learn_heads(paths: Sequence[RemotePath]) -> None:
    """Request the first bytes of many objects at once; what fails is requested again when it is opened."""

    def request(path: RemotePath) -> None:
        with suppress(OSError):
            learn(path, *path.store.open(path))

    for future in [submit(request, path) for path in paths]:
        future.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="qdq-remote")


def submit(function: Callable[..., Result], /, *arguments: object) -> Future[Result]:
    """Run a function in one of the threads that wait for servers."""
    return _pool().submit(function, *arguments)


def folder_status(prefix: str) -> os.stat_result:
    """Return the status of a folder, which is the prefix of some objects."""
    return _status(stat.S_IFDIR | 0o777, _hash(prefix), 0, 0)


def _status(mode: int, inode: int, size: int, mtime: int) -> os.stat_result:
    return os.stat_result((mode, inode, 0, 1, 0, 0, size, mtime, mtime, mtime), {"st_mtime_ns": mtime * 10**9})


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


@cache
def _store_of(path: RemotePath, retry_s: float) -> "ObjectStore":
    from obstore import store

    options: Any = {
        "retry_config": {
            "max_retries": 1000,
            "retry_timeout": timedelta(seconds=retry_s),
            "backoff": {"max_backoff": timedelta(seconds=min(5.0, retry_s / 4))},
        },
        "client_options": {
            "connect_timeout": timedelta(seconds=min(10.0, retry_s)),
            "read_timeout": timedelta(seconds=min(30.0, retry_s)),  # without a byte
            "timeout": timedelta(minutes=10),
        },
    }
    if path.scheme in WEB:
        options["client_options"]["allow_http"] = path.scheme == "http"
        return store.HTTPStore.from_url(path.signed_url, **options)
    if path.scheme == "s3":
        from qdqcli.tensors.aws_profile import s3_options

        own = s3_options()
        options["client_options"] |= own.client_options
        options |= own.store_options
    return store.from_url(f"{path.scheme}://{path.bucket}", **options)


@contextmanager
def _translated(path: RemotePath, retry_s: float) -> Iterator[None]:
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotSupportedError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    try:
        yield
    except PreconditionError:
        raise _replaced(path) from None
    except AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "exists") from None
    except FileNotFoundError as error:
        what = "bucket" if "NoSuchBucket" in str(error) else "object"
        why = ", and a URL is not a pattern" if has_magic(path.key) else ""
        raise FileNotFoundError(errno.ENOENT, f"there is no such {what}{why}") from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise _refused() from None
    except NotSupportedError:
        raise OSError(errno.EOPNOTSUPP, "the server gives no ranges of this file; download it") from None
    except BaseError as error:
        raise _other_error(error, retry_s) from None
    except (ValueError, TypeError) as error:
        raise OSError(errno.EINVAL, f"the store refuses its settings ({type(error).__name__})") from None


def _refused() -> OSError:
    return PermissionError(errno.EACCES, "the server refuses access with these credentials")


def _other_error(error: Exception, retry_s: float) -> OSError:
    code = _code(error)
    text = str(error)
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return FileNotFoundError(errno.ENOENT, "there is no such bucket")
    if re.search(r"169\.254\.|metadata\.google", text):  # where a machine of a cloud has its own
        what = "no credentials were found for this store; qdq help remote says where to put them"
        return PermissionError(errno.EINVAL, what)  # not that of a file's mode: the advice would be another
    if code in (401, 403):
        return _refused()
    if code is not None and code < 500:
        reason = re.search(r"<Code>(\w{1,60})</Code>", text)
        return OSError(errno.EINVAL, f"the server answers {code}" + (f" ({reason[1]})" if reason else ""))
    if "invalid path" in text.lower():
        return OSError(errno.EINVAL, "an object in it is not named like a file")
    if code is None and not re.search(r"HTTP error|retries", text):
        return OSError(errno.EINVAL, "settings or credentials of this store are missing; qdq help remote names them")
    if "InvalidCertificate" in text:
        what = "the server's certificate is not trusted; set SSL_CERT_FILE to that of its authority"
        return OSError(errno.EPROTO, what)
    if "InvalidContentType" in text:
        return OSError(errno.EPROTO, "the server does not encrypt; give its address with http://")
    what = f"the server answers {code}" if code is not None else "the server does not answer"
    return OSError(errno.ETIMEDOUT, f"{what}, tried for {retry_s:g} s")


def _code(error: Exception) -> int | None:
    """Return the status of the server's answer; None without one."""
    found = re.search(r"non-2xx status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _replaced(path: RemotePath) -> InputError:
    return InputError(f"{show_path(path)}: was replaced while being read; start again")
