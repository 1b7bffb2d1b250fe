"""A large 16-bit tensor with one range, which is measured from the counts of its patterns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from qdqcli.op.histogram import HISTOGRAM_ELEMENTS
from qdqcli.op.spec import ComputeDType
from tests import reference
from tests.measure.test_tensor import assert_metrics_agree, quantize, sums_by_name
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import read_safetensors, sample, write_safetensors

SIZE = HISTOGRAM_ELEMENTS + 70_001


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compute_dtype": ComputeDType.FLOAT32, "num_bits": 4},
        {"signed_input": False},
        {"given_range": (-1.0, 0.75)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_the_file_and_its_statistics(tmp_path: Path, dtype: str, settings: dict[str, Any]) -> None:
    x = sample((SIZE,), dtype)
    x[:3] = np.nan, np.inf if "given_range" in settings else 0.0, -0.0
    path = write_safetensors(tmp_path / "x.safetensors", {"x": x})
    attributes = dict(settings)
    given = attributes.pop("given_range", None)
    measured = quantize(path, tmp_path / "y.safetensors", threads=3, **settings)
    only_measured = quantize(path, threads=1, max_memory=1, **settings)
    assert sums_by_name(measured.sums) == sums_by_name(only_measured.sums)

    ends = {} if given is None else {"input_min": given[0], "input_max": given[1], "range_given": True}
    compute_dtype = str(attributes.pop("compute_dtype", "native"))
    y = read_safetensors(tmp_path / "y.safetensors")["x"]
    assert_same_bits(y, quantize_and_dequantize_v4(x, compute_dtype=compute_dtype, **ends, **attributes))
    lo, hi = measured.overall_range
    low, high, _, _ = (
        np.asarray(end).reshape(())
        for end in reference.representable_range(
            np.array([lo, hi], x.dtype), *(given or ()), range_given=given is not None, compute_dtype=compute_dtype,
            **attributes,
        )
    )  # fmt: skip
    assert_metrics_agree(measured.sums, reference.error_statistics(x, y, low, high, -1))


@pytest.mark.parametrize("shape", [(SIZE, 1), (SIZE // 3, 1, 3), (1, SIZE)], ids=str)
def test_a_dimension_of_one_index_is_one_range(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Also where its qparams are stored per element of a row, of which the patterns have none."""
    x = sample(shape, "BF16")
    path = write_safetensors(tmp_path / "x.safetensors", {"x": x})
    flat = write_safetensors(tmp_path / "flat.safetensors", {"x": x.reshape(-1)})
    along, whole = quantize(path, num_bits=4, axis=shape.index(1)), quantize(flat, num_bits=4)
    assert sums_by_name(along.sums) == sums_by_name(whole.sums)
