"""Golden packed checkpoints with random damage: every outcome is a decoded weight or an error with exit code 3.

`pytest -m faults tests/tensors/packed/test_fuzz.py` tries more; a failure prints seed and trial.
"""

import random
from pathlib import Path

import numpy as np
import pytest

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.packed.inputs import decode_inputs
from tests.tensors.packed.golden import FOLDERS, Stored, load, save

DTYPES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "U32": 4, "I64": 8, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1}


def damage(tensors: dict[str, Stored], rng: random.Random) -> None:
    """Change one tensor: its bytes, shape, dtype or name, or remove it."""
    name = rng.choice(sorted(tensors))
    dtype, shape, data = tensors[name]
    match rng.randrange(6):
        case 0:
            del tensors[name]
        case 1:  # bytes, often those of infinities, of large indices and of negative sizes
            changed = bytearray(data)
            for _ in range(rng.randrange(1, 9) if changed else 0):
                changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            tensors[name] = dtype, shape, bytes(changed)
        case 2:  # a size, with as much data as that needs
            sizes = list(shape) or [1]
            sizes[rng.randrange(len(sizes))] += rng.choice((-1, 1, 2, 7, -2))
            sizes = [max(size, 0) for size in sizes]
            needed = int(np.prod(sizes)) * DTYPES[dtype]
            tensors[name] = dtype, tuple(sizes), (data * (needed // max(len(data), 1) + 1))[:needed]
        case 3:  # a dimension more or less
            sizes = [1, *shape] if rng.random() < 0.5 else [int(np.prod(shape))]
            tensors[name] = dtype, tuple(sizes), data
        case 4:
            other = rng.choice([other for other, size in DTYPES.items() if size == DTYPES[dtype]])
            tensors[name] = other, shape, data
        case 5:
            tensors[name + "x"] = tensors.pop(name)


def tries(tmp_path: Path, folder: Path, seed: int, trials: int) -> int:
    """How many damaged checkpoints still decode."""
    whole = load(folder / "packed" / "model.safetensors")
    configs = [path for path in (folder / "packed").iterdir() if path.suffix == ".json"]
    (tmp_path / "m").mkdir()
    for path in configs:
        (tmp_path / "m" / path.name).write_bytes(path.read_bytes())
    taken = 0
    for trial in range(trials):
        rng = random.Random(f"{seed} {trial}")
        tensors = dict(whole)
        for _ in range(rng.randrange(1, 3)):
            damage(tensors, rng)
        save(tmp_path / "m" / "model.safetensors", tensors)
        try:
            decode_all(tmp_path / "m")
            taken += 1
        except InputError:
            pass
        except Exception as error:
            raise AssertionError(f"{folder.name}, seed {seed}, trial {trial}") from error
    return taken


def decode_all(path: Path) -> None:
    (view,), _ = decode_inputs([open_checkpoint(path)])
    for shard in view.shards:
        with shard.open() as reader:
            for info in shard.tensors:
                if (shard.name, info.name) in view.storage:
                    reader.read_into(info, 0, memoryview(bytearray(info.nbytes)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_damage_is_an_error_or_another_weight(tmp_path: Path, folder: Path) -> None:
    assert tries(tmp_path, folder, 20261129, 60) > 0


@pytest.mark.faults
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_damage_is_an_error_or_another_weight_many_times(tmp_path: Path, folder: Path) -> None:
    tries(tmp_path, folder, 1, 3000)
