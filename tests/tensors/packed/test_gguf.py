"""GGUF files: headers, names, order and values, against the package that wrote them."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.tensor_mapping import get_tensor_name_map
from safetensors.numpy import load_file, save_file

from qdqcli.errors import InputError
from qdqcli.tensors.checkpoint import open_checkpoint
from qdqcli.tensors.gguf import KINDS, QUANTIZED
from qdqcli.tensors.gguf_names import ARCHITECTURES, Model, names_of
from tests.conftest import Qdq
from tests.tensors.packed.gguf_files import Array, blocks, decoded, finish, weight, write_gguf, write_model
from tests.tensors.packed.golden import arrays
from tests.tensors.packed.golden import decoded as view_of


def test_types_are_those_of_the_package() -> None:
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert theirs == {number: kind[:3] for number, kind in KINDS.items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_are_those_that_the_package_maps_back(name: str) -> None:
    kind = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    there = get_tensor_name_map(kind, 3)
    model, found = Model.of({"general.architecture": name, f"{name}.attention.head_count": 2}), 0
    for known in gguf.MODEL_TENSORS[kind]:
        stored = gguf.TENSOR_NAMES[known].format(bid=2) + ".weight"
        for new in names_of(stored, (4, 8), model):
            if new.name != stored:
                assert there.get_name(new.name, (".weight",)) == stored, new.name
                found += 1
    assert found >= 10


def test_a_model_as_its_original_names_and_orders_it(tmp_path: Path) -> None:
    x, path = write_model(tmp_path)
    found, expected = arrays(view_of(path)), decoded(x)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), array, err_msg=name)


def test_reads_that_begin_within_a_head(tmp_path: Path) -> None:
    x, path = write_model(tmp_path)
    (shard,) = open_checkpoint(path).shards
    with shard.open() as readable:
        (info,) = (tensor for tensor in shard.tensors if tensor.name == "model.layers.0.self_attn.k_proj.weight")
        expected = x[info.name].astype(np.float16).tobytes()
        for start, stop in ((0, 10), (508, 5000), (4096, 8192), (8190, 8192), (0, 8192)):
            data = bytearray(stop - start)
            readable.read_into(info, start, memoryview(data))
            assert data == expected[start:stop]


def is_decoded(kind: str) -> bool:
    try:
        gguf.quants.dequantize(np.zeros((1, QUANTIZED[kind].nbytes), np.uint8), Type[kind])
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_type_in_the_rows_of_its_weight(kind: str, tmp_path: Path, qdq: Qdq, monkeypatch: Any) -> None:
    """Random codes, scales of 1: values are those of the package, also where a block is decoded by itself."""
    rng = np.random.default_rng(QUANTIZED[kind].nbytes)
    rows = rng.integers(0, 60, (6, 512 // QUANTIZED[kind].elements * QUANTIZED[kind].nbytes), np.uint8)
    path = write_gguf(tmp_path / "m.gguf", {"blk.0.ffn_up.weight": (Type[kind], rows)})
    if not is_decoded(kind):
        outcome = qdq("compare", path, path)
        assert outcome.code == 3
        assert (
            f"tensor 'model.layers.0.mlp.up_proj.weight', codes of GGUF: the package gguf does not decode {kind}"
            in (outcome.err)
        )
        return
    monkeypatch.setattr("qdqcli.tensors.packed.decoded.STEP_ELEMENTS", 600)
    view = view_of(path)
    (found,) = arrays(view).values()
    np.testing.assert_array_equal(found, gguf.quants.dequantize(rows, Type[kind]))
    (storage,) = view.storage.values()
    assert storage.format == f"GGUF {kind}"
    assert storage.nbytes == rows.size


@pytest.mark.parametrize("architecture", ["gemma2", "qwen2"])
def test_norms_that_are_stored_plus_one(architecture: str, tmp_path: Path) -> None:
    x = weight(1, 300)
    path = write_gguf(tmp_path / "m.gguf", {"output_norm.weight": x + 1}, architecture)
    (found,) = arrays(open_checkpoint(path)).values()
    np.testing.assert_array_equal(found, (x + 1) - np.float32(architecture == "gemma2"))


def test_heads_per_block_and_an_unknown_architecture(tmp_path: Path) -> None:
    x = weight(1, 16, 32)
    tensors = {"blk.1.attn_k.weight": x}
    path = write_gguf(tmp_path / "a.gguf", tensors, head_count=4, head_count_kv=[4, 2])
    (found,) = arrays(open_checkpoint(path)).values()
    order = [head * 8 + row for head in range(2) for row in (0, 2, 4, 6, 1, 3, 5, 7)]
    np.testing.assert_array_equal(found, x[order])
    other = arrays(open_checkpoint(write_gguf(tmp_path / "b.gguf", tensors, "falcon")))
    np.testing.assert_array_equal(other["blk.1.attn_k.weight"], x)


@pytest.mark.parametrize("heads", [{}, {"head_count": 3}, {"head_count": [2]}])
def test_heads_that_are_lost_or_do_not_divide_the_rows(tmp_path: Path, qdq: Qdq, heads: dict[str, Any]) -> None:
    path = write_gguf(tmp_path / "a.gguf", {"blk.1.attn_q.weight": weight(1, 16, 32)}, **heads)
    outcome = qdq("decode", path, "-o", tmp_path / "a.safetensors")
    assert outcome.code == 3
    assert "heads" in outcome.error
    assert "attn_q" in outcome.error


def test_heads_within_a_block(tmp_path: Path, qdq: Qdq) -> None:
    bias = blocks(weight(1, 32), Type.Q8_0)
    path = write_gguf(tmp_path / "a.gguf", {"blk.0.attn_q.bias": bias}, head_count=4)
    outcome = qdq("decode", path, "-o", tmp_path / "a.safetensors")
    assert outcome.code == 3
    assert "tensor 'blk.0.attn_q.bias': its rows in order of heads are no blocks of Q8_0" in outcome.error


def test_compare_decode_and_measure(tmp_path: Path, qdq: Qdq) -> None:
    x, path = write_model(tmp_path)
    save_file(x, tmp_path / "original.safetensors")
    outcome = qdq("compare", tmp_path / "original.safetensors", path, "--format", "json")
    assert outcome.code == 0, outcome.err
    for row in outcome.report["tensors"]:
        y = decoded(x)[row["name"]].astype(np.float64)
        if (y != x[row["name"]]).any():
            signal, noise = (x[row["name"]].astype(np.float64) ** 2).sum(), ((y - x[row["name"]]) ** 2).sum()
            assert row["stats"]["sqnr_db"] == pytest.approx(10 * np.log10(signal / noise), abs=1e-6)
    refused = qdq("stats", path)
    assert refused.code == 3
    assert "already quantized: 3 weights in GGUF Q5_0" in refused.err
    assert qdq("stats", path, "--from-packed").code == 0
    assert "model.embed_tokens.weight" in qdq("inspect", path, "--from-packed").out
    out = tmp_path / "out.safetensors"
    assert qdq("decode", path, "-o", out, "--dtype", "f32", "--verify").code == 0
    found = load_file(out)
    for name, array in decoded(x).items():
        np.testing.assert_array_equal(found[name].astype(np.float32), array)
    again = qdq("decode", out, "-o", tmp_path / "again")
    assert again.code == 2
    assert "nothing to decode" in again.err


def test_a_file_in_float_is_written_by_decode_alone(tmp_path: Path, qdq: Qdq) -> None:
    x = weight(1, 16, 32)
    path = write_gguf(tmp_path / "a.gguf", {"blk.1.attn_k.weight": x}, head_count=2, head_count_kv=2)
    assert qdq("decode", path, "-o", tmp_path / "a.safetensors").code == 0
    assert list(load_file(tmp_path / "a.safetensors")) == ["model.layers.1.self_attn.k_proj.weight"]
    refused = qdq("run", path, "-o", tmp_path / "b.gguf")
    assert refused.code == 2
    assert "GGUF files are not written" in refused.err


def split(folder: Path) -> dict[str, Array]:
    """A model of two files, as llama-gguf-split writes them: only the first describes it."""
    x = {"blk.0.attn_q.weight": weight(1, 16, 32), "blk.1.attn_q.weight": weight(2, 16, 32)}
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=1)
    writer.add_head_count(2)
    for name, array in x.items():
        writer.add_tensor(name, array)
    finish(writer)
    return x


def test_a_model_of_several_files(tmp_path: Path, qdq: Qdq) -> None:
    x = split(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    found = arrays(open_checkpoint(tmp_path))
    order = [head * 8 + row for head in range(2) for row in (0, 2, 4, 6, 1, 3, 5, 7)]
    np.testing.assert_array_equal(found["model.layers.1.self_attn.q_proj.weight"], x["blk.1.attn_q.weight"][order])
    assert qdq("decode", tmp_path, "-o", tmp_path.with_name("out")).code == 0
    index = json.loads((tmp_path.with_name("out") / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        f"model.layers.{n}.self_attn.q_proj.weight": f"m-0000{n + 1}-of-00002.safetensors" for n in range(2)
    }


def test_a_folder_of_several_models_and_one_beside_its_original(tmp_path: Path, qdq: Qdq) -> None:
    x = {"blk.0.ffn_up.weight": weight(1, 16, 32)}
    write_gguf(tmp_path / "a.gguf", x)
    write_gguf(tmp_path / "b.gguf", x)
    outcome = qdq("inspect", tmp_path)
    assert outcome.code == 3
    assert "2 GGUF models ('a.gguf', 'b.gguf'); give one of the files" in outcome.err
    save_file({"x": weight(1, 4, 4)}, tmp_path / "model.safetensors")
    outcome = qdq("inspect", tmp_path)
    assert outcome.code == 0
    assert "x" in outcome.out
    assert "ffn_up" not in outcome.out


def test_a_scale_that_is_no_number(tmp_path: Path, qdq: Qdq) -> None:
    _, path = write_model(tmp_path)
    (shard,) = open_checkpoint(path).shards
    (info,) = (tensor for tensor in shard.tensors if tensor.name == "model.embed_tokens.weight")
    data = bytearray(path.read_bytes())
    data[info.start : info.start + 2] = b"\xff\xff"
    path.write_bytes(data)
    outcome = qdq("compare", path, path)
    assert outcome.code == 3
    assert "tensor 'model.embed_tokens.weight', codes of GGUF: NaN or infinite elements" in outcome.err


def damaged(path: Path, *changes: tuple[int, bytes]) -> None:
    data = bytearray(path.read_bytes())
    for at, new in changes:
        data[at : at + len(new)] = new
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([(0, b"GGML")], "is not a GGUF file"),
        ([(4, struct.pack("<I", 1))], "version 1 of the format; 2 and 3 are read"),
        ([(4, struct.pack(">I", 3))], "is big-endian"),
        ([(8, struct.pack("<Q", 1 << 60))], "error: "),
        ([(16, struct.pack("<Q", 1 << 60))], "its header goes on beyond byte"),
        ([(24, struct.pack("<Q", 1 << 60))], "its header goes on beyond byte"),
        ([(52, struct.pack("<I", 77))], "has type 77, which is none of the format"),
    ],
)
def test_a_damaged_header(changes: list[tuple[int, bytes]], problem: str, tmp_path: Path, qdq: Qdq) -> None:
    _, path = write_model(tmp_path)
    assert path.read_bytes()[32:52] == b"general.architecture"
    damaged(path, *changes)
    outcome = qdq("inspect", path)
    assert outcome.code == 3
    assert problem in outcome.err


@pytest.mark.parametrize(
    ("after", "new", "problem"),
    [
        (0, struct.pack("<I", 9), "has 9 dimensions, not 1 to 4"),
        (4, struct.pack("<Q", 0), "its shape is [0, 16]"),
        (4, struct.pack("<Q", 255), "rows of 255 elements are not whole blocks of Q4_0, 32"),
        (12, struct.pack("<Q", 1 << 40), "but the file has"),
        (20, struct.pack("<I", 4), "type 4 is none that this version knows"),
        (24, struct.pack("<Q", 7), "begins at byte 7, which 32 does not divide"),
        (24, struct.pack("<Q", 1 << 40), "but the file has"),
        (24, struct.pack("<Q", 4096), "within the tensor before it"),
    ],
)
def test_a_damaged_tensor(after: int, new: bytes, problem: str, tmp_path: Path, qdq: Qdq) -> None:
    _, path = write_model(tmp_path)
    damaged(path, (path.read_bytes().index(b"token_embd.weight") + len(b"token_embd.weight") + after, new))
    outcome = qdq("inspect", path)
    assert outcome.code == 3
    assert problem in outcome.err


def test_a_file_that_ends_early(tmp_path: Path, qdq: Qdq) -> None:
    _, path = write_model(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "the download may be incomplete" in qdq("inspect", path).err


def test_without_the_package(tmp_path: Path, qdq: Qdq, monkeypatch: Any) -> None:
    _, path = write_model(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    monkeypatch.setattr("qdqcli.tensors.packed.gguf._decoded_types.cache", {}, raising=False)
    from qdqcli.tensors.packed import gguf as decoder

    decoder._decoded_types.cache_clear()
    assert qdq("inspect", path).code == 0
    outcome = qdq("compare", path, path)
    assert outcome.code == 5
    assert "pip install 'qdqcli[gguf]'" in outcome.err


def tries(tmp_path: Path, seed: int, trials: int) -> int:
    """How many files with random damage in their first bytes are still read and decoded."""
    _, path = write_model(tmp_path)
    whole = path.read_bytes()
    (shard,) = open_checkpoint(path).shards
    taken = 0
    for trial in range(trials):
        rng = random.Random(f"{seed} {trial}")
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(shard.header_bytes + 64)
            data[at] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)
        try:
            arrays(view_of(path))
            taken += 1
        except InputError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}, trial {trial}") from error
    return taken


def test_damage_is_an_error_or_another_model(tmp_path: Path) -> None:
    assert tries(tmp_path, 20261129, 150) > 20


@pytest.mark.faults
def test_damage_is_an_error_or_another_model_many_times(tmp_path: Path) -> None:
    assert tries(tmp_path, 1, 5000) > 500
