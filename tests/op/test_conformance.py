"""The public API against the real operator's outputs, bit for bit: golden vectors, no oracle of ours in between."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from qdqcli import quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad
from tests.conformance.golden import FULL, SUBSET, Case, Golden

DTYPES = ("bfloat16", "float16", "float32", "float64")
GROUPS = [
    *((dtype, "forward") for dtype in DTYPES),
    *((dtype, kind) for dtype in ("float32", "float64") for kind in ("grad", "error")),
]


@cache
def golden(folder: Path) -> Golden:
    return Golden(folder)


def assert_all_match(folder: Path, cases: list[Case]) -> None:
    vectors = golden(folder)
    wrong = [
        text
        for case in cases
        if (text := vectors.mismatch(case, quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad))
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)} cases differ from TensorFlow:\n" + "\n".join(wrong[:10])


# The subset has the error cases once, in float32.
@pytest.mark.parametrize(("dtype", "kind"), [group for group in GROUPS if group != ("float64", "error")])
def test_api_equals_tensorflow_on_the_subset(dtype: str, kind: str) -> None:
    cases = golden(SUBSET).select(dtype, kind)
    assert cases
    assert_all_match(SUBSET, cases)


@pytest.mark.skipif(not FULL.is_dir(), reason="the full golden vectors are not beside the project")
@pytest.mark.parametrize(("dtype", "kind"), GROUPS)
def test_api_equals_tensorflow_on_the_full_vectors(dtype: str, kind: str) -> None:
    cases = golden(FULL).select(dtype, kind)
    assert cases
    assert_all_match(FULL, cases)


def test_the_subset_covers_what_its_readme_says() -> None:
    cases = golden(SUBSET).cases
    assert {case["dtype"] for case in cases} == set(DTYPES)
    assert {case.get("error") for case in cases} == {
        None, "num_bits", "round_mode", "axis", "rank", "range_rank", "range_length", "range_order", "shape"
    }  # fmt: skip
    if FULL.is_dir():
        tags = [{tag for case in golden(folder).cases for tag in case["tags"]} for folder in (SUBSET, FULL)]
        assert tags[0] == tags[1]
