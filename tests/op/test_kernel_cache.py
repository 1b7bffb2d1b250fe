"""The kernel cache: only private files are loaded, and what cannot be loaded is compiled."""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.errors import UnavailableError
from qdqcli.op.jit import cache as kernel_cache
from qdqcli.op.jit import compiler, image, kernel, pipeline
from qdqcli.op.jit.kernel import Kernel, watch_compiling
from tests.op.small_kernels import Inner, Outer

DIGEST_BYTES = 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    place = tmp_path / "cache"
    place.mkdir(mode=0o700)
    monkeypatch.setattr(kernel_cache, "folder", lambda: place)
    return place


@pytest.fixture
def host() -> Iterator[None]:
    """Processor, versions and settings are read again, now and after the test."""
    cached = kernel_cache.host_key, kernel_cache.processor, kernel_cache._flags
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def num_compiled(name: str = "double") -> int:
    """Compilations that a kernel needs in a new process: 0 where it was loaded."""
    compiled: list[int] = []
    x, out = np.arange(5.0), np.empty(5)
    with watch_compiling(compiled.append):
        Kernel(f"tests.op.small_kernels:{name}")(x, out)
    assert out.tolist() == ([0.0, 2.0, 4.0, 6.0, 8.0] if name == "double" else [4.0, 3.0, 2.0, 1.0, 0.0])
    return compiled.count(1)


def only_file(cache: Path) -> Path:
    (path,) = cache.glob("*.bin")
    return path


def test_a_second_process_loads_the_kernel(cache: Path) -> None:
    assert num_compiled() == 1
    assert only_file(cache).stat().st_mode & 0o777 == 0o600
    assert num_compiled() == 0


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def change(edit: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    """A file with another payload, and the digest of that."""

    def plant(path: Path) -> None:
        payload = edit(path.read_bytes()[DIGEST_BYTES:])
        path.write_bytes(hashlib.sha256(payload).digest() + payload)

    return plant


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


PLANTED: dict[str, Callable[[Path], Any]] = {
    "writable for the group": lambda path: path.chmod(0o620),
    "writable for all": lambda path: path.chmod(0o602),
    "a link": link,
    "a pipe": pipe,
    "a flipped bit": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "another kernel's": change(lambda payload: payload.replace(b"small_kernels:double", b"small_kernels:triple")),
    "no image": change(lambda payload: payload.split(b"\n")[0] + b"\n"),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_file_that_is_not_private_or_cannot_be_loaded_is_compiled_anew(
    cache: Path, plant: Callable[[Path], Any]
) -> None:
    num_compiled()
    before = only_file(cache).read_bytes()
    plant(only_file(cache))
    assert num_compiled() == 1
    assert not only_file(cache).is_symlink()
    assert only_file(cache).read_bytes() == before
    assert num_compiled() == 0


def test_a_folder_in_place_of_a_kernel_is_left_alone(cache: Path) -> None:
    num_compiled()
    path = only_file(cache)
    path.unlink()
    path.mkdir()
    assert num_compiled() == 1
    assert path.is_dir()


@pytest.mark.parametrize("mode", [0o770, 0o707])
@pytest.mark.parametrize("place", ["", "kernels"])
def test_a_cache_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, mode: int
) -> None:
    """Its files are machine code."""
    monkeypatch.setenv("QDQ_CACHE_DIR", str(tmp_path / "root"))
    directory = kernel_cache.folder.__wrapped__()
    assert directory is not None
    (directory if place else directory.parent).chmod(mode)
    assert kernel_cache.folder.__wrapped__() is None


def test_a_file_of_another_user_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_compiled()
    monkeypatch.setattr(os, "geteuid", lambda: only_file(cache).stat().st_uid + 1)
    assert num_compiled() == 1


def another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "processor", lambda: {"model name": "another", "flags": "sse2"})


def another_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "version_of", lambda package: f"{package} another")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("differ", [another_processor, another_numba])
def test_code_of_another_processor_or_compiler_is_another_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, differ: Callable[[pytest.MonkeyPatch], None]
) -> None:
    num_compiled()
    kernel_cache.host_key.cache_clear()
    with monkeypatch.context() as patch:
        differ(patch)
        assert num_compiled() == 1
        assert num_compiled() == 0
    assert len(list(cache.glob("*.bin"))) == 2


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(("setting", "value"), [("OPT", "1"), ("BOUNDSCHECK", "1"), ("CPU_NAME", "generic")])
def test_code_of_other_settings_is_another_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    num_compiled()
    kernel_cache.host_key.cache_clear()
    monkeypatch.setenv(f"NUMBA_{setting}", value)
    assert num_compiled() == 1
    assert len(list(cache.glob("*.bin"))) == 2


def test_the_version_of_a_package_is_known_without_importing_it() -> None:
    assert kernel_cache.version_of("numba") != kernel_cache.version_of("llvmlite") != ""
    assert kernel_cache.version_of("no_such_package") == ""


@pytest.mark.parametrize("place", [None, Path("/proc/self/nowhere")])
def test_without_a_folder_to_write_kernels_are_compiled_in_memory(
    monkeypatch: pytest.MonkeyPatch, place: Path | None
) -> None:
    monkeypatch.setattr(kernel_cache, "folder", lambda: place)
    assert num_compiled() == 1
    assert num_compiled() == 1


def test_threads_that_need_one_kernel_compile_it_once(cache: Path) -> None:
    compiled: list[int] = []
    double = Kernel("tests.op.small_kernels:double")
    outputs = [np.empty(100) for _ in range(8)]
    threads = [threading.Thread(target=double, args=(np.ones(100), out)) for out in outputs]
    with watch_compiling(compiled.append):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert compiled.count(1) == 1
    assert all((out == 2).all() for out in outputs)
    assert only_file(cache).exists()


def test_without_numba_a_missing_kernel_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(UnavailableError, match="numba is not installed; pip install numba"):
        kernel.compile_image("tests.op.small_kernels:double", ("float64[1]", "float64[1]"))


def test_the_reduced_pipeline_works_with_this_numba() -> None:
    compiler.choose_pipeline()
    assert pipeline.is_reduced


def test_where_the_reduced_pipeline_fails_numbas_own_compiles(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "is_reduced", True)
    monkeypatch.delattr(pipeline, "_linked")
    compiler.choose_pipeline.cache_clear()
    assert num_compiled("reverse") == 1
    assert not pipeline.is_reduced
    monkeypatch.undo()
    compiler.choose_pipeline.cache_clear()
    assert only_file(cache).exists()


def test_a_kernel_that_needs_numba_at_run_time_is_compiled_in_each_process(cache: Path) -> None:
    assert num_compiled("allocate") == 1
    assert num_compiled("allocate") == 1
    assert not list(cache.glob("*.bin"))


# ------------------------------------------------------------------ kernels of a release wheel

V3 = {"flags": " ".join(kernel_cache.LEVELS["x86-64-v2"] + kernel_cache.LEVELS["x86-64-v3"]), "model": "a Zen 3"}
DOUBLE = "tests.op.small_kernels:double", ("float64[1]", "float64[1]")


@pytest.fixture
def release(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Write the file that a release wheel has for a level; this processor has level 3."""
    objects = cache.with_name("objects")
    monkeypatch.setattr(kernel_cache, "RELEASED", objects)
    monkeypatch.setattr(kernel_cache, "processor", lambda: V3)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", "x86_64")))
    built = kernel.compile_image(*DOUBLE)

    def write(level: str) -> Path:
        directory = objects / level
        directory.mkdir(parents=True)
        kernel_cache.write(directory, DOUBLE[0], kernel_cache.release_manifest(*DOUBLE, level), built)
        return only_file(directory)

    kept = kernel_cache.release_level, kernel_cache._flags
    for function in kept:
        function.cache_clear()
    yield write
    for function in kept:
        function.cache_clear()


def test_a_kernel_of_the_release_is_loaded_where_nothing_is_stored(release: Callable[[str], Path], cache: Path) -> None:
    release("x86-64-v3")
    assert num_compiled() == 0
    assert not list(cache.iterdir())


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v4"])
def test_a_kernel_of_another_level_is_not_loaded(release: Callable[[str], Path], level: str) -> None:
    release(level)
    assert num_compiled() == 1


@pytest.mark.parametrize(
    "changed", [("__version__", "0"), ("_source_hash", lambda: "of other sources"), ("_settings", lambda: {"OPT": "1"})]
)
def test_a_kernel_of_another_release_is_compiled_anew(
    release: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, changed: tuple[str, Any]
) -> None:
    release("x86-64-v3")
    monkeypatch.setattr(kernel_cache, *changed)
    assert num_compiled() == 1


@pytest.mark.parametrize("plant", [flip, PLANTED["no image"]])
def test_a_kernel_of_the_release_that_cannot_be_loaded_is_compiled_once(
    release: Callable[[str], Path], plant: Callable[[Path], Any]
) -> None:
    plant(release("x86-64-v3"))
    assert num_compiled() == 1
    assert num_compiled() == 0


# ------------------------------------------------------------------ arguments

NUMBERS = (7, np.int64(-(2**40)), np.int16(-3), np.float32(0.1), np.uint16(65535))
EXPECTED = [7.0, -(2.0**40), -3.0, float(np.float32(0.1)), 65535.0, 1.0, 1.0, 26.0 + 230.0, 1.0, 2.0 * 1.5 + 5 - 9]


def arguments() -> list[Any]:
    outer = Outer(inner=Inner(values=np.array([1, 2]), factor=np.float32(1.5)), missing=None, place=(5, 9))
    matrix = np.arange(20, 26, dtype=np.int32).reshape(2, 3) + 1
    return [*NUMBERS, True, np.True_, matrix, np.array([False, False, True]), outer]


def test_numbers_arrays_and_tuples_arrive(cache: Path) -> None:
    out = np.zeros(10)
    assert Kernel("tests.op.small_kernels:everything")(*arguments(), out) == 10
    assert out.tolist() == EXPECTED
    assert only_file(cache).exists()


@pytest.mark.usefixtures("cache")
def test_none_selects_the_branch() -> None:
    out = np.zeros(10)
    args = arguments()
    args[5] = None
    Kernel("tests.op.small_kernels:everything")(*args, out)
    assert out.tolist() == [*EXPECTED[:5], 0.0, *EXPECTED[6:]]


@pytest.mark.parametrize(
    ("argument", "message"), [(np.zeros((4, 4)).T[1:], "C-contiguous"), ("text", "found str"), ([1], "found list")]
)
def test_other_arguments_are_refused(argument: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Kernel("tests.op.small_kernels:double")(argument, np.zeros(1))


# ------------------------------------------------------------------ images


def test_an_object_for_another_processor_is_loaded_by_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image, compiler):
        monkeypatch.setattr(module, "IS_X86_64", False)
    built = kernel.compile_image("tests.op.small_kernels:double", ("float64[1]", "float64[1]"))
    assert built.startswith(b"\x7fELF")
    monkeypatch.setattr(kernel, "images", lambda *_: [built])
    assert num_compiled() == 0


@pytest.mark.parametrize("name", ["exponential", "failing"])
def test_a_kernel_that_calls_a_function_is_no_image(name: str) -> None:
    with pytest.raises(image.ImageError, match="function"):
        kernel.compile_image(f"tests.op.small_kernels:{name}", ("float64[1]", "float64[1]"))
