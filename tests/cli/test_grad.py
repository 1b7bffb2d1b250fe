"""`qdq grad` against the op's gradient on arrays and against the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4_grad
from tests import reference
from tests.conftest import Qdq
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import DTYPES, header_of, read_safetensors, sample, write_safetensors, write_sparse

FLOATS = ("BF16", "F16", "F32", "F64")
SHAPE = (4, 5, 6)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gradients and inputs of every dtype, with an integer tensor beside them."""
    x = {dtype: sample(SHAPE, dtype, 40) for dtype in FLOATS} | {"ids": np.arange(5)}
    g = {dtype: sample(SHAPE, dtype, 41) for dtype in FLOATS} | {"ids": np.arange(5)}
    x["F32"][0, 0, :2] = np.nan, np.inf
    g["F32"][0, 0, :2] = np.inf, -1.0
    paths = (
        write_safetensors(tmp_path / "g.safetensors", g, {"of": "loss"}),
        write_safetensors(tmp_path / "x.safetensors", x),
    )
    return *paths, g, x


@pytest.mark.parametrize("ends", [(-0.5, 0.25), (-0.3, 0.7), (0.1, 0.1)])
@pytest.mark.parametrize("axis", ["none", "0", "1", "last"])
def test_a_given_range(qdq: Qdq, pair: tuple, tmp_path: Path, axis: str, ends: tuple[float, float]) -> None:
    g_path, x_path, g, x = pair
    output = tmp_path / "out.safetensors"
    outcome = qdq("grad", g_path, x_path, "-o", output, "--axis", axis, "--input-min", ends[0], "--input-max", ends[1])
    assert outcome.code == 0, outcome.err
    assert header_of(output) == header_of(g_path)
    got = read_safetensors(output)
    number = {"none": -1, "last": 2}.get(axis) or (-1 if axis == "none" else int(axis) if axis.isdigit() else 2)
    for dtype in FLOATS:
        given = ends if number == -1 else [np.full(SHAPE[number], end) for end in ends]
        want, _, _ = reference.quantize_and_dequantize_v4_grad(g[dtype], x[dtype], *given, number)
        assert_same_bits(got[dtype], want, x[dtype], dtype)
    assert got["ids"].tobytes() == g["ids"].tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_the_ends_of_a_range_have_the_tensors_dtype(qdq: Qdq, tmp_path: Path, dtype: str) -> None:
    """0.3 is 0.30078125 in bfloat16: an element of that value is inside."""
    end = DTYPES[dtype].type(0.3)
    x = np.array([end, -end, 0.1], DTYPES[dtype])
    files = [write_safetensors(tmp_path / f"{n}.safetensors", {"w": a}) for n, a in (("g", np.ones_like(x)), ("x", x))]
    assert qdq("grad", *files, "-o", tmp_path / "o.safetensors", "--input-min", -0.3, "--input-max", 0.3).code == 0
    want, _, _ = reference.quantize_and_dequantize_v4_grad(np.ones_like(x), x, -0.3, 0.3)
    assert_same_bits(read_safetensors(tmp_path / "o.safetensors")["w"], want, x)


@pytest.mark.parametrize("memory", ["1536KiB", "256MiB"])  # a chunk per block, and all in one block
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_a_range_that_is_not_given_is_measured_on_the_input(qdq: Qdq, tmp_path: Path, axis: int, memory: str) -> None:
    x, g = sample((401, 500), "F32", 42), sample((401, 500), "F32", 43)
    x[3] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "g.npy", g)
    outcome = qdq(
        "grad", tmp_path / "g.npy", tmp_path / "x.npy", "-o", tmp_path / "o.npy", "--axis", axis, "--max-memory", memory
    )
    assert outcome.code == 0, outcome.err
    if axis == -1:
        ends = np.nanmin(x), np.nanmax(x)
    else:
        with np.errstate(all="ignore"):
            ends = np.fmin.reduce(x, axis=1 - axis), np.fmax.reduce(x, axis=1 - axis)
    want, _, _ = quantize_and_dequantize_v4_grad(g, x, *ends, axis)
    assert_same_bits(np.load(tmp_path / "o.npy"), want, x)


def test_the_output_names_how_much_was_outside(qdq: Qdq, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([-2, -1, 0, 1, 2, np.nan], np.float32))
    np.save(tmp_path / "g.npy", np.ones(6, np.float32))
    arguments = (
        "grad",
        tmp_path / "g.npy",
        tmp_path / "x.npy",
        "-o",
        tmp_path / "o.npy",
        "--input-min",
        -1,
        "--input-max",
        1,
    )
    outcome = qdq(*arguments, "--format", "json")
    (row,) = json.loads(outcome.out)
    assert (row["num_elements"], row["num_outside"]) == (6, 3)
    assert "50.00%" in qdq(*arguments, "--overwrite").out
    assert qdq(*arguments, "--overwrite", "--format", "none").out == ""


def test_two_single_files_belong_together_whatever_the_names(qdq: Qdq, tmp_path: Path) -> None:
    x = sample((4, 6))
    write_safetensors(tmp_path / "g.safetensors", {"weight.grad": np.ones_like(x)})
    np.save(tmp_path / "x.npy", x)
    assert qdq("grad", tmp_path / "g.safetensors", tmp_path / "x.npy", "-o", tmp_path / "o.safetensors").code == 0
    assert_same_bits(read_safetensors(tmp_path / "o.safetensors")["weight.grad"], np.ones_like(x))


def test_folders_keep_their_layout(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    outcome = qdq("grad", model, model, "-o", tmp_path / "out", "--axis", 0, "--min-ndim", 2)
    assert outcome.code == 0, outcome.err
    assert sorted(["qdq.json", *(str(p.relative_to(model)) for p in model.rglob("*"))]) == sorted(
        str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")
    )
    assert (tmp_path / "out" / "config.json").read_bytes() == (model / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ({"a": sample((4, 6))}, ("'w'", "INPUT has no tensor")),
        ({"w": sample((6, 4)), "b": sample((2,))}, ("'w': gradients have shape [4, 6], INPUT has [6, 4]",)),
        ({"w": sample((4, 6), "F16"), "b": sample((2,))}, ("'w': gradients have dtype F32, INPUT has F16",)),
    ],
)
def test_gradients_that_do_not_fit_are_refused(
    qdq: Qdq, tmp_path: Path, x: dict[str, np.ndarray], words: tuple[str, ...]
) -> None:
    g_path = write_safetensors(tmp_path / "g.safetensors", {"w": sample((4, 6)), "b": sample((2,))})
    x_path = write_safetensors(tmp_path / "x.safetensors", x)
    outcome = qdq("grad", g_path, x_path, "-o", tmp_path / "out.safetensors")
    assert outcome.code == 2
    for word in words:
        assert word in outcome.error
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("memory", ["1536KiB", "256MiB"])  # a chunk per block, and all in one block
@pytest.mark.parametrize("ends", [(), (-0.5, 0.25)])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_gradients_in_another_order_are_taken(
    qdq: Qdq, tmp_path: Path, axis: int, ends: tuple[float, ...], memory: str
) -> None:
    """Fortran order on one side, and other bytes first."""
    x, g = sample((41, 50, 60), "F32", 42), sample((41, 50, 60), "F32", 43)
    given = ("--input-min", ends[0], "--input-max", ends[1]) if ends else ()
    given += ("--threads", 2, "--max-memory", memory)
    outputs = []
    for i, (their_order, our_order) in enumerate(("CC", "CF", "FC", "FF")):
        np.save(tmp_path / "x.npy", np.asarray(x, order=their_order).astype(">f4", order="K"))
        np.save(tmp_path / "g.npy", np.asarray(g, order=our_order))
        output = tmp_path / f"o{i}.npy"
        outcome = qdq("grad", tmp_path / "g.npy", tmp_path / "x.npy", "-o", output, "--axis", axis, *given)
        assert outcome.code == 0, outcome.err
        outputs.append(np.load(output))
        assert np.isfortran(outputs[-1]) == (our_order == "F")
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.view("<u4"), outputs[0].view("<u4"))
    assert 0 < np.count_nonzero(outputs[0] == 0) < x.size or not ends


def test_another_order_needs_memory(qdq: Qdq, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample((1000, 1000)))
    np.save(tmp_path / "g.npy", np.asfortranarray(sample((1000, 1000))))
    call = ("grad", tmp_path / "g.npy", tmp_path / "x.npy", "-o", tmp_path / "o.npy")
    outcome = qdq(*call, "--max-memory", "7M")
    assert outcome.code == 2
    assert "Fortran order" in outcome.error
    assert "--max-memory" in outcome.error
    assert qdq(*call, "--max-memory", "8M").code == 0


@pytest.mark.parametrize("which", ["gradients", "input"])
@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_the_output_must_not_be_one_of_the_inputs(
    qdq: Qdq, pair: tuple, which: str, overwrite: tuple[str, ...]
) -> None:
    g_path, x_path, _, _ = pair
    output = g_path if which == "gradients" else x_path
    before = output.read_bytes()
    assert qdq("grad", g_path, x_path, "-o", output, *overwrite).code == 2
    assert output.read_bytes() == before


def test_the_output_must_not_lie_in_the_input(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    gradients = tmp_path / "g.safetensors"
    write_safetensors(gradients, {"embed": sample((7, 4), "F16")})
    assert qdq("grad", gradients, model, "-o", model / "out.safetensors").code == 2
    assert not (model / "out.safetensors").exists()


def test_the_output_must_not_hold_the_input(qdq: Qdq, pair: tuple, tmp_path: Path) -> None:
    _, _, g, x = pair
    write_safetensors(tmp_path / "gs" / "model.safetensors", g)
    inputs = write_safetensors(tmp_path / "xs" / "deep" / "model.safetensors", x)
    outcome = qdq("grad", tmp_path / "gs", inputs.parent, "-o", tmp_path / "xs", "--overwrite")
    assert outcome.code == 2
    assert inputs.exists()


def test_hostile_names_reach_no_terminal(qdq: Qdq, tmp_path: Path) -> None:
    hostile = "\x1b[2Jevil\r\n::error::boo##vso[x]"
    source = write_safetensors(tmp_path / "in.safetensors", {hostile: sample((4, 6))})
    for name in ("table", "json"):
        out = qdq("grad", source, source, "-o", tmp_path / "o.safetensors", "--overwrite", "--format", name).out
        assert all(char.isprintable() or char == "\n" for char in out)
        assert "##vso" not in out


def test_ranges_that_need_more_than_the_memory_are_refused(qdq: Qdq, tmp_path: Path) -> None:
    source = write_sparse(tmp_path / "in.safetensors", (2, 5_000_000))
    outcome = qdq("grad", source, source, "-o", tmp_path / "o.safetensors", "--axis", 1, "--max-memory", "1MiB")
    assert outcome.code == 2
    assert "5,000,000 ranges" in outcome.error
    assert "--per-channel" not in outcome.error
