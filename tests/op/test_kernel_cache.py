"""The kernel cache: only private files are loaded, and what cannot be loaded is compiled."""

import hashlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import pytest

from qdqcli.errors import UnavailableError
from qdqcli.op.jit import cache as kernel_cache
from qdqcli.op.jit.cache import kernel


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    directory = tmp_path / "cache"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(kernel_cache, "folder", lambda: directory)
    return directory


@pytest.fixture
def fresh_key() -> Iterator[None]:
    """The compiler's versions and settings are read again, now and after the test."""
    kernel_cache._compiler_key.cache_clear()
    yield
    kernel_cache._compiler_key.cache_clear()


def num_loaded() -> int:
    """Loads from the cache that a kernel needs in a new process: 1, or 0 where it was compiled."""

    @kernel()
    def doubled(x: float) -> float:
        return 2.0 * x

    assert doubled(3.5) == 7.0
    return sum(doubled.stats.cache_hits.values())


def only_file(cache: Path) -> Path:
    (path,) = cache.glob("*.bin")
    return path


def test_a_second_process_loads_the_kernel(cache: Path) -> None:
    assert num_loaded() == 0
    assert only_file(cache).stat().st_mode & 0o777 == 0o600
    assert num_loaded() == 1


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def with_digest(payload: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(hashlib.sha256(payload).digest() + payload)


PLANTED: dict[str, Callable[[Path], Any]] = {
    "writable for the group": lambda path: path.chmod(0o620),
    "writable for all": lambda path: path.chmod(0o602),
    "a link": link,
    "a pipe": pipe,
    "another value": with_digest(pickle.dumps(5)),
    "a missing module": with_digest(b"cno.such.module\nname\n."),
    "no pickle": with_digest(b"\xff"),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_file_that_is_not_private_or_cannot_be_loaded_is_compiled_anew(
    cache: Path, plant: Callable[[Path], Any]
) -> None:
    num_loaded()
    plant(only_file(cache))
    assert num_loaded() == 0
    assert only_file(cache).is_file()
    assert not only_file(cache).is_symlink()
    assert num_loaded() == 1


def test_a_file_of_another_user_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_loaded()
    monkeypatch.setattr(os, "geteuid", lambda: only_file(cache).stat().st_uid + 1)
    assert num_loaded() == 0


@pytest.mark.usefixtures("fresh_key")
@pytest.mark.parametrize(("setting", "value"), [("OPT", 1), ("BOUNDSCHECK", 1), ("LOOP_VECTORIZE", 0)])
def test_code_of_other_settings_is_another_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: int
) -> None:
    num_loaded()
    kernel_cache._compiler_key.cache_clear()
    monkeypatch.setattr(numba.config, setting, value)
    assert num_loaded() == 0
    assert len(list(cache.glob("*.bin"))) == 2


def test_code_of_another_python_is_another_file() -> None:
    assert {numba.__version__, sys.implementation.cache_tag} <= set(kernel_cache._compiler_key()[:2])


def test_temporaries_of_killed_processes_are_swept(cache: Path) -> None:
    old, new = cache / "tmpabcdefgh", cache / "tmpijklmnop"
    for path in (old, new):
        path.write_bytes(b"x")
    a_day_ago = time.time() - 86400
    os.utime(old, (a_day_ago, a_day_ago))
    num_loaded()
    assert not old.exists()
    assert new.exists()


def test_numba_that_may_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(UnavailableError, match="NUMBA_DISABLE_JIT"):
        kernel()
