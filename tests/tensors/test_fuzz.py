"""Files that nobody would write, made at random: the safetensors library is the judge of our reader.

`pytest -m faults tests/tensors/test_fuzz.py --fuzz-seconds 3600` looks for an hour; a failure prints seed and file.
"""

import io
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize, safe_open

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_checkpoint, open_file
from qdqcli.tensors.flat import FlatShard
from tests.tensors.files import npy_bytes, read_all, read_shard, zip_bytes
from tests.tensors.mutants import ALPHABET, mutant

STRICTER = ("twice", "its record is not a JSON object", "dtype {", "at most 33554432 are read")
"""What our messages say where we refuse more than the library, which breaks the format's text there: a key twice, a
record as a list, a dtype as an object; and a header beyond 32 MiB."""


def test_agrees_with_the_library_on_changed_headers(tmp_path: Path) -> None:
    assert agreements(tmp_path / "x.safetensors", 20261125, range(4000)) > 500


@pytest.mark.faults
def test_agrees_with_the_library_on_a_hundred_thousand_changed_headers(tmp_path: Path) -> None:
    assert agreements(tmp_path / "x.safetensors", 4, range(100_000)) > 10_000


@pytest.mark.faults
def test_agrees_with_the_library_for_as_long_as_asked(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seconds = pytestconfig.getoption("fuzz_seconds")
    if not seconds:
        pytest.skip("no --fuzz-seconds given")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    assert agreements(tmp_path / "x.safetensors", seed, until(seconds)) > 10


def until(seconds: float) -> Iterator[int]:
    deadline = time.monotonic() + seconds
    trial = 0
    while time.monotonic() < deadline:
        yield trial
        trial += 1


def agreements(path: Path, seed: int, trials: range | Iterator[int]) -> int:
    """How many of so many files both take."""
    rng = random.Random(seed)
    taken = 0
    for trial in trials:
        data = mutant(rng)
        path.write_bytes(data)
        ours, refusal = opened(path)
        held = theirs(data)
        if ours is None:
            if held is not None and not any(rule in refusal for rule in STRICTER):
                assert names_a_tensor_twice(data), (seed, trial, data, refusal)
            assert refusal.isprintable(), (seed, trial, data)
            continue
        assert held is not None, (seed, trial, data)
        dtypes = {tensor.name: (tensor.dtype.name, tensor.shape) for tensor in ours.tensors}
        assert dtypes == {name: (dtype, shape) for name, (dtype, shape, _) in held.items()}, (seed, trial, data)
        assert read_shard(ours, 1 << 20) == {name: bytes_ for name, (_, _, bytes_) in held.items()}
        if trial % 50 == 0:
            with safe_open(path, framework="np") as file:
                assert set(file.keys()) == set(held)
        taken += 1
    return taken


def names_a_tensor_twice(data: bytes) -> bool:
    """The library takes the last of two records; ours refuses both, or the first where that is damaged by itself."""
    length = int.from_bytes(data[:8], "little")
    pairs = json.loads(data[8 : 8 + length], object_pairs_hook=list)
    names = [name for name, _ in pairs]
    return len(set(names)) < len(names)


def opened(path: Path) -> tuple[FlatShard | None, str]:
    """The shard, or None and why not."""
    try:
        return open_file(path, path.name), ""
    except InputError as error:
        return None, str(error)


def theirs(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """Name -> dtype, shape and bytes, as the library reads them; None where it refuses."""
    try:
        tensors = deserialize(data)
    except SafetensorError:
        return None
    return {name: (fields["dtype"], tuple(fields["shape"]), bytes(fields["data"])) for name, fields in tensors}


# The other formats have no judge as strict: what is wrong must be an InputError, what is taken must be read to its end.


def npy_case(rng: random.Random) -> bytes:
    shape = tuple(rng.choice((0, 1, 3)) for _ in range(rng.randrange(3)))
    array = np.zeros(shape, rng.choice(("<f4", ">f8", "<f2", "|b1", "<i8", "<U3", "|V2", "<c8")))
    return npy_bytes(array, rng.choice((None, (2, 0), (3, 0))))


def npz_case(rng: random.Random) -> bytes:
    members = [(f"{name}.npy", npy_case(rng)) for name in "abc"[: rng.randrange(4)]]
    return zip_bytes(members, rng.choice((0, 8)), rng.choice((b"", b"a comment")))


@pytest.mark.parametrize(("suffix", "make"), [(".npy", npy_case), (".npz", npz_case)])
@pytest.mark.parametrize("trials", [1000, pytest.param(5000, marks=pytest.mark.faults)])
def test_whatever_is_wrong_is_an_input_error(
    tmp_path: Path, suffix: str, make: Callable[[random.Random], bytes], trials: int
) -> None:
    rng = random.Random(trials)
    taken = 0
    for trial in range(trials):
        data = bytearray(make(rng))
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            change_bytes(data, rng)
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        refusal = ""
        try:
            read_all(open_checkpoint(path))
        except InputError as error:
            refusal = str(error)
        except Exception as error:
            raise AssertionError(f"trial {trial} of {trials}: {bytes(data)!r}") from error
        assert not refusal or (refusal.startswith(f"{path}: ") and refusal.isprintable()), (trial, bytes(data))
        if refusal:
            continue
        taken += 1
        if suffix == ".npy":
            np.load(io.BytesIO(bytes(data)), allow_pickle=False)
    assert taken > trials // 10


def change_bytes(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        data[at] = rng.randrange(256)
    elif kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at] = rng.choice(ALPHABET)
    elif kind == 3:
        del data[at : at + rng.randrange(1, 9)]
        data += b"x" * (not data)
    elif kind == 4:
        data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(30)]
    else:
        size = rng.choice((2, 4, 8))
        data[at : at + size] = rng.choice((0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1)).to_bytes(size, "little")
