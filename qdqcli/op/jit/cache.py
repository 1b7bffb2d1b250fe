"""On-disk cache of compiled kernels: a process that finds them starts in a fraction of the time.

Numba's own cache misses edits in files other than the kernel's, fails on a damaged file, and refuses to import where no
folder is writable. Here the folder's name holds the version and a hash of every source file of `op/`, each file holds
its own digest, and anything that cannot be read, loaded or written falls back to compiling. The files are pickles,
which run code when they are loaded: the folder and each file must belong to this user and be writable by nobody else.
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
"""Age from which a temporary file counts as left by a killed process: writing a kernel takes milliseconds."""

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
"""Numba settings (`NUMBA_OPT`, ...) that affect the compiled code, beside the processor's name and features."""


@cache
def folder() -> Path | None:
    """Return the cache folder; None if there is none that only this user can write.

    `QDQ_CACHE_DIR` overrides the user's cache folder; an empty value turns the cache off.
    """
    root = _root()
    if root is None:
        return None
    directory = root / f"kernels-{__version__}-{_source_hash()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory if _is_private(root) and _is_private(directory) else None
    except OSError:
        return None


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return the `numba.njit` decorator for kernels: IEEE division, no GIL, no contraction, code cached in `folder`.

    Raises:
        UnavailableError: Numba's compiler is disabled.
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
    """Compiled signatures of one kernel, one file each."""

    def __init__(self, function: Callable[..., Any], options: str) -> None:
        self._name = function.__qualname__
        self._options = options

    @property
    def cache_path(self) -> str | None:
        directory = folder()
        return None if directory is None else str(directory)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled signature; None if it is missing, damaged or unreadable."""
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
        except Exception:  # a pickle of another Numba version can raise anything; fall back to compiling
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save the compiled signature, if possible."""
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
        directory = folder()
        key = repr((self._name, self._options, sig, codegen.magic_tuple(), _compiler_key()))
        return (
            None
            if directory is None
            else directory / f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"
        )


class _Unpickler(pickle.Unpickler):
    """Unpickler that skips the Numba modules of functions in a kernel: only interpreted code would use them."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the requested object, except for a function's environment."""
        return _rebuild_environment if name == _rebuild_env.__name__ else super().find_class(module, name)


def _rebuild_environment(module: str, constants: list[Any], name: str) -> Any:
    return _rebuild_env(module if module in sys.modules else __name__, constants, name)  # type: ignore[no-untyped-call]


@cache
def _register_runtime() -> None:
    """Register with LLVM the addresses of the C functions that compiled kernels call.

    Numba does more before it loads a kernel: it compiles code that only new kernels are linked with and imports the
    rest of itself, at a cost of 0.12 s and 20 MB.
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
    except RuntimeError:  # no home directory
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
    """Read a regular file that only this user can write.

    Raises:
        OSError: it is a link, not a regular file, or not private.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
            raise PermissionError(f"{path} is not a private file")
        return file.read()


@cache
def _sweep(directory: Path) -> None:
    """Remove temporary files of killed processes, once in each process that writes."""
    with suppress(OSError):
        for path in directory.glob("tmp*"):
            if time.time() - path.lstat().st_mtime > _LEFTOVER_S:
                path.unlink(missing_ok=True)


def _is_private(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and _is_ours(status)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
