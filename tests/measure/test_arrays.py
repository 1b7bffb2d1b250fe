"""`quantize_and_measure`: the bits of the op, and the sums of a run over a file with the same elements."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from qdqcli import METRICS, QuantSpec, quantize_and_measure
from qdqcli.errors import DTypeError, SpecError
from qdqcli.measure import arrays as in_memory
from qdqcli.measure.given_range import GivenRange
from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.spec import ComputeDType, RoundMode
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import read_safetensors, sample, write_safetensors

SHAPES: list[tuple[int, ...]] = [(), (0, 3), (5,), (3, 5, 7), (37, 4099), (300, 16, 3, 33), (2, 140_000), (2, 280_001)]
SPECS = {
    "one range": QuantSpec(),
    "axis 0": QuantSpec(axis=0, num_bits=4),
    "axis 1": QuantSpec(axis=1, narrow_range=True),
    "groups": QuantSpec(group_size=32, ragged_groups=True),
    "short groups": QuantSpec(group_size=3, ragged_groups=True, signed_input=False),
    "given": QuantSpec(range_given=True, given_range=(-0.5, 0.75)),
    "mse": QuantSpec(num_bits=3, estimator="mse"),
    "percentile by row": QuantSpec(axis=0, estimator="percentile", percentile=99.0),
}


def from_file(path: Path, spec: QuantSpec, given: GivenRange | None = None) -> tuple[np.ndarray, ErrorSums]:
    """What a run over the file makes of its tensor."""
    checkpoint = open_checkpoint(path)
    shard = checkpoint.shards[0]
    output = path.with_name("out.safetensors")
    output.unlink(missing_ok=True)
    with Workers(2) as workers, shard.open() as reader:
        writer = shard.create(output, reader)
        job = TensorJob(
            info=shard.tensors[0], spec=spec, given_range=given or spec.given_range, reader=reader, writer=writer
        )
        measured = quantize_tensor(job, workers)
        writer.commit()
    return read_safetensors(output)["w"], measured.sums


def fits(shape: tuple[int, ...], spec: QuantSpec) -> bool:
    return spec.axis < len(shape)


FLOATS = ["BF16", "F16", "F32", "F64"]
CASES = [pytest.param(spec, dtype, id=f"{name}-{dtype}") for name, spec in SPECS.items() for dtype in FLOATS]
HALF_UP = QuantSpec(group_size=32, ragged_groups=True, round_mode=RoundMode.HALF_UP)


@pytest.mark.parametrize(("spec", "dtype"), [*CASES, pytest.param(HALF_UP, "F32", id="half up-F32")])
def test_equals_a_run_over_a_file(tmp_path: Path, spec: QuantSpec, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "BLOCK_ELEMENTS", 1 << 16)
    for shape in SHAPES:
        if not fits(shape, spec):
            continue
        x = sample(shape, dtype)
        write_safetensors(path := tmp_path / "x.safetensors", {"w": x})
        want, sums = from_file(path, spec)
        for nontemporal_bytes in (1 << 40, 1):
            monkeypatch.setattr(cpu, "NONTEMPORAL_BYTES", nontemporal_bytes)
            y, found = quantize_and_measure(x, spec)
            assert_same_bits(y, want, x, (shape, nontemporal_bytes))
            assert found == sums, (shape, nontemporal_bytes)
            assert y.shape == shape
            assert y.dtype == x.dtype


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-45, 0.0])
def test_elements_that_need_a_closer_look(
    tmp_path: Path, axis: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "BLOCK_ELEMENTS", 1 << 16)
    monkeypatch.setattr(cpu, "NONTEMPORAL_BYTES", 1)
    x = sample((90, 1600), "F32")
    x[40, 7:90] = value
    x[70] = value
    spec = QuantSpec(axis=axis)
    write_safetensors(path := tmp_path / "x.safetensors", {"w": x})
    want, sums = from_file(path, spec)
    y, found = quantize_and_measure(x, spec)
    assert_same_bits(y, want, x)
    assert repr(tuple(found)) == repr(tuple(sums))


def test_a_block_of_nan_leaves_the_extremes_to_the_others() -> None:
    x = np.full(in_memory.BLOCK_ELEMENTS + 2, np.nan, np.float32)
    x[-2:] = -1, 2
    for given in ((-1.0, 1.0), None):
        _, stats = quantize_and_measure(x, given_range=given)
        assert (stats.input_min, stats.input_max) == (-1, 2)


def test_a_range_for_each_channel(tmp_path: Path) -> None:
    x = sample((6, 500), "BF16")
    given = -np.arange(1.0, 7.0), np.arange(2.0, 8.0)
    spec = QuantSpec(axis=0, range_given=True, compute_dtype=ComputeDType.FLOAT32)
    write_safetensors(path := tmp_path / "x.safetensors", {"w": x})
    want, sums = from_file(path, spec, given)
    y, found = quantize_and_measure(x, QuantSpec(axis=0, compute_dtype=ComputeDType.FLOAT32), given)
    assert_same_bits(y, want, x)
    assert found == sums


def test_the_input_stays_and_the_figures_are_those_of_numpy() -> None:
    x = sample((64, 64), "F32")[:, ::2]
    before = x.copy()
    y, sums = quantize_and_measure(x, QuantSpec(num_bits=4, axis=1))
    assert (x == before).all()
    error = y - x
    assert METRICS["mse"].value(sums) == pytest.approx((error.astype(np.float64) ** 2).mean(), rel=1.1e-6)
    assert METRICS["max_abs_error"].value(sums) == abs(error).max()


class OnDevice:
    __cuda_array_interface__: ClassVar[dict[str, object]] = {"shape": (3,), "typestr": "<f4", "data": (0, False)}


def test_what_does_not_fit_is_refused() -> None:
    x = np.ones((3, 4), np.float32)
    with pytest.raises(SpecError, match="pass given_range"):
        quantize_and_measure(x, QuantSpec(range_given=True))
    with pytest.raises(SpecError, match=r"input_max has shape \[2\]; it takes a scalar or 3 values"):
        quantize_and_measure(x, QuantSpec(axis=0), (np.zeros(3), np.ones(2)))
    with pytest.raises(SpecError, match="spec is of type int; give a QuantSpec"):
        quantize_and_measure(np.zeros(3, np.float32), 4)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="rank 2"):
        quantize_and_measure(x, QuantSpec(axis=2))
    with pytest.raises(DTypeError, match="int64"):
        quantize_and_measure(np.ones(3, np.int64))
    with pytest.raises(DTypeError, match="copy it there first"):
        quantize_and_measure(OnDevice())
