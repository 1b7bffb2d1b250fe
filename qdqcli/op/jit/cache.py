"""On-disk cache of kernels as machine code: a process that finds them compiles nothing and imports no compiler.

The folder's name holds the version and a hash of every source file of `op/`. Each file holds its own digest, then the
manifest that it was looked up by: kernel, types of the arguments, processor, version and settings of Numba. Anything
that cannot be read, loaded or written falls back to compiling. Machine code runs when it is called: the folder and each
file must belong to this user and be writable by nobody else.

A release wheel holds files of the same form for levels of x86-64, which stand for the processor in their manifests.
They are trusted as the sources beside them.
"""

import hashlib
import importlib.util
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import takewhile
from pathlib import Path

from qdqcli import __version__

_DIGEST_BYTES = 32

_CODE_SETTINGS = (
    "BOUNDSCHECK", "CPU_FEATURES", "CPU_NAME", "DEBUGINFO", "DISABLE_INTEL_SVML", "ENABLE_AVX", "LOOP_VECTORIZE",
    "OPT", "SLP_VECTORIZE",
)  # fmt: skip
"""Numba settings (`NUMBA_OPT`, ...) that affect the compiled code."""
_PROCESSOR_FACTS = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip
"""Lines of /proc/cpuinfo by which LLVM tells processors and their instructions apart."""

RELEASED = Path(__file__).with_name("objects")
"""Kernels of a release wheel, a folder per level; made by `.ci/build_hook.py`."""
LEVELS = {
    "x86-64-v2": ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"),
    "x86-64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
"""Levels of x86-64, and the features that each adds to the one before, in the spelling of /proc/cpuinfo."""


def images(kernel: str, kinds: object) -> Iterator[bytes]:
    """Yield the images of a kernel for these types: of the release, then the stored one.

    What is missing, damaged, of other sources or not private is left out.
    """
    level = release_level()
    if level is not None:
        yield from _images(RELEASED / level, kernel, release_manifest(kernel, kinds, level), Path.read_bytes)
    directory = folder()
    if directory is not None:
        yield from _images(directory, kernel, _host_manifest(kernel, kinds), _read_private)


def store(kernel: str, kinds: object, image: bytes) -> None:
    """Store the image of a kernel, if possible."""
    directory = folder()
    if directory is not None:
        with suppress(OSError):
            write(directory, kernel, _host_manifest(kernel, kinds), image)


def _images(directory: Path, kernel: str, manifest: bytes, read: Callable[[Path], bytes]) -> Iterator[bytes]:
    with suppress(OSError):
        content = read(_path(directory, kernel, manifest))
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == digest and payload.startswith(manifest):
            yield payload[len(manifest) :]


def write(directory: Path, kernel: str, manifest: bytes, image: bytes) -> None:
    """Write the file of an image, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    from tempfile import mkstemp  # only where something is compiled

    descriptor, name = mkstemp(dir=directory)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(manifest + image).digest() + manifest + image)
        temporary.replace(_path(directory, kernel, manifest))
    finally:
        temporary.unlink(missing_ok=True)


def _path(directory: Path, kernel: str, manifest: bytes) -> Path:
    return directory / f"{kernel.split(':')[1]}-{hashlib.sha256(manifest).hexdigest()[:24]}.bin"


# ------------------------------------------------------------------ what machine code depends on


def release_manifest(kernel: str, kinds: object, level: str) -> bytes:
    """Return the manifest of an image of the release."""
    return json.dumps([kernel, kinds, level, __version__, _source_hash()]).encode() + b"\n"


def _host_manifest(kernel: str, kinds: object) -> bytes:
    return json.dumps([kernel, kinds, host_key()]).encode() + b"\n"


@cache
def release_level() -> str | None:
    """Return the highest level of the processor; None in a package without compiled kernels, or with settings."""
    if not RELEASED.is_dir() or os.uname().machine != "x86_64" or _settings():
        return None
    return [None, *takewhile(lambda level: _flags().issuperset(LEVELS[level]), LEVELS)][-1]


@cache
def host_key() -> tuple[object, ...]:
    """Return what compiled code depends on beside its source: processor, compiler and settings."""
    facts = hashlib.sha256(repr(processor()).encode()).hexdigest()
    return os.uname().machine, facts, version_of("numba"), version_of("llvmlite"), _settings()


def host_has(feature: str) -> bool:
    """Tell whether the processor that kernels are compiled for has a feature, in LLVM's spelling."""
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    return feature in _flags() if chosen is None else f"+{feature}" in chosen.split(",")


@cache
def _flags() -> frozenset[str]:
    return frozenset(processor().get("flags", "").split())


@cache
def processor() -> dict[str, str]:
    """Return name and features of the first processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # read in part
            first = file.read(1 << 14).split("\n\n")[0]
    except OSError:
        return {}
    facts = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in facts if name.strip() in _PROCESSOR_FACTS}


def _settings() -> dict[str, str]:
    return {name: value for name in _CODE_SETTINGS if (value := os.environ.get(f"NUMBA_{name}")) is not None}


def version_of(package: str) -> str:
    """Return a hash of the file in which a package keeps its version, without importing it."""
    with suppress(ImportError, OSError, ValueError):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return hashlib.sha256(Path(spec.origin).with_name("_version.py").read_bytes()).hexdigest()[:16]
    return ""


@cache
def _source_hash() -> str:
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]


# ------------------------------------------------------------------ the private folder


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


def _read_private(path: Path) -> bytes:
    """Read a regular file that only this user can write.

    Raises:
        OSError: it is a link, not a regular file, or not private.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) and _is_ours(status)):
            raise PermissionError(f"{path} is not a private file")
        return file.read()


def _is_private(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and _is_ours(status)


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
