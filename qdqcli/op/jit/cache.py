"""Compiled kernels on disk, in a folder of our own: a process that finds them starts in a fraction of the time.

Numba's own cache does not notice an edit in another file than the kernel's, fails on a damaged file, and refuses to
import where no folder is writable. Here the folder's name holds the version and a hash of every source of the room,
each file its own digest, and whatever cannot be read, loaded or written means compiling without it. The files are
pickles, which run code when they are loaded: the folder and each file must belong to this user and be closed to
everyone else's writing.
"""

import hashlib
import os
import pickle
import stat
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import llvmlite.binding
import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.environment import _rebuild_env
from numba.core.runtime import _nrt_python  # type: ignore[attr-defined]
from numba.core.serialize import dumps

from qdqcli import __version__
from qdqcli.errors import UnavailableError
from qdqcli.op.jit.compiler import KernelCompiler

_DIGEST_BYTES = 32
_LEFTOVER_S = 3600
"""Age from which a temporary file is one that a killed process left: writing a kernel takes milliseconds."""

_CODE_SETTINGS = (
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "DEBUG_ARRAY_OPT_RUNTIME",
    "DEBUG_NRT",
    "DISABLE_INTEL_SVML",
    "ENABLE_AVX",
    "ENABLE_PROFILING",
    "EXTEND_VARIABLE_LIFETIMES",
    "LLVM_REFPRUNE_FLAGS",
    "LLVM_REFPRUNE_PASS",
    "LOOP_VECTORIZE",
    "NRT_STATS",
    "OPT",
    "PARFOR_MAX_TUPLE_SIZE",
    "SLP_VECTORIZE",
)
"""Numba's settings (`NUMBA_OPT`, ...) on which the compiled code depends, beside the processor's name and features."""


@cache
def folder() -> Path | None:
    """Where compiled kernels are kept; None where there is no folder that only this user can write.

    `QDQ_CACHE_DIR` names another place than the user's cache folder; empty, it turns the cache off.
    """
    root = _root()
    if root is None:
        return None
    place = root / f"kernels-{__version__}-{_source_hash()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        return place if _is_private(root) and _is_private(place) else None
    except OSError:
        return None


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` for kernels: IEEE division, no lock held, no contraction, compiled code kept in `folder`.

    Raises:
        UnavailableError: Numba is told not to compile.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise UnavailableError("Numba cannot compile kernels with NUMBA_DISABLE_JIT=1 in the environment; unset it")
    chosen: Any = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True} | options
    if not options.get("parallel"):
        chosen["pipeline_class"] = KernelCompiler

    def compile_lazily(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**chosen)(function)
        dispatcher._cache = KernelCache(function, repr(sorted(chosen.items())))
        return dispatcher

    return compile_lazily


class KernelCache(_Cache):
    """The compiled signatures of one kernel, a file each."""

    def __init__(self, function: Callable[..., Any], options: str) -> None:
        self._name = function.__qualname__
        self._options = options

    @property
    def cache_path(self) -> str | None:
        place = folder()
        return None if place is None else str(place)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled signature, or None: not there, damaged or unreadable."""
        _register_runtime()
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            content = _read_private(path)
            digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(payload).digest() != digest:
                return None
            return CompileResult._rebuild(target_context, *_Unpickler(BytesIO(payload)).load())  # type: ignore[no-untyped-call]
        except Exception:  # a pickle of another Numba can raise anything; compiling needs none of it
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled signature, if that is possible."""
        path = self._path(sig, data.codegen)
        if path is None or data.library.has_dynamic_globals or any(not lifted.can_cache for lifted in data.lifted):
            return
        payload = dumps(data._reduce())  # type: ignore[no-untyped-call]
        _sweep(path.parent)
        with suppress(OSError), ExitStack() as cleanup:
            with NamedTemporaryFile(dir=path.parent, delete=False) as file:
                cleanup.callback(Path(file.name).unlink, missing_ok=True)
                file.write(hashlib.sha256(payload).digest() + payload)
            Path(file.name).replace(path)

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        place = folder()
        key = repr((self._name, self._options, sig, codegen.magic_tuple(), _compiler_key()))
        return None if place is None else place / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"


class _Unpickler(pickle.Unpickler):
    """Leaves out modules of Numba whose functions are in a kernel: only interpreted code would look into them."""

    def find_class(self, module: str, name: str) -> Any:
        """As asked for, but for the environment of a function."""
        return _rebuild_environment if name == _rebuild_env.__name__ else super().find_class(module, name)


def _rebuild_environment(module: str, constants: list[Any], name: str) -> Any:
    return _rebuild_env(module if module in sys.modules else __name__, constants, name)  # type: ignore[no-untyped-call]


@cache
def _register_runtime() -> None:
    """Tell LLVM where the functions in C are that compiled kernels call.

    Numba does more before it loads a kernel: it compiles what new kernels are linked with, and imports the rest of
    itself, which take 0.12 s and 20 MB.
    """
    for name, address in _nrt_python.c_helpers.items():
        llvmlite.binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


def _root() -> Path | None:
    chosen = os.environ.get("QDQ_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "qdqcli"
    try:
        return Path.home() / ".cache" / "qdqcli"
    except RuntimeError:  # no home
        return None


def _source_hash() -> str:
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]


@cache
def _compiler_key() -> tuple[Any, ...]:
    """Versions and settings that the compiled code depends on."""
    settings = [(name, repr(getattr(numba.config, name, None))) for name in _CODE_SETTINGS]
    return numba.__version__, sys.implementation.cache_tag, settings


def _read_private(path: Path) -> bytes:
    """The content of a regular file that only this user can write.

    Raises:
        OSError: it is a link, or anything else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
            raise PermissionError(f"{path} is not a private file")
        return file.read()


@cache
def _sweep(place: Path) -> None:
    """Remove the temporary files that killed processes left, once in each process that writes."""
    with suppress(OSError):
        for path in place.glob("tmp*"):
            if time.time() - path.lstat().st_mtime > _LEFTOVER_S:
                path.unlink(missing_ok=True)


def _is_private(place: Path) -> bool:
    status = place.lstat()
    return stat.S_ISDIR(status.st_mode) and _is_ours(status)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
