"""Conventions of other libraries: their arithmetic, to the bit."""

from pathlib import Path

import numpy as np
import pytest

from qdqcli.study.convention import CONVENTIONS

with np.load(Path(__file__).with_name("conventions.npz")) as golden:
    GOLDEN = dict(golden)
CASES = [name for name in GOLDEN if name.count("/") == 2]


@pytest.mark.parametrize("case", CASES)
def test_a_convention_gives_what_its_library_gives(case: str) -> None:
    name, bits, size = case.split("/")
    (convention,) = (known for known in CONVENTIONS if known.name == name)
    x = GOLDEN[f"x/{size}"]
    assert convention.fits(int(bits), int(size))
    found = convention.apply(x, int(bits))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, GOLDEN[case])


def test_every_convention_has_golden_values() -> None:
    assert {case.split("/")[0] for case in CASES} == {convention.name for convention in CONVENTIONS}
