"""The golden vectors: cases of the real operator, loaded from a manifest and npz files, and run on an implementation.

The format is that of the full vectors; see the README beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.op.bits import UINTS, difference

SUBSET = Path(__file__).parent
FULL = Path(__file__).parents[2].parent / "shared" / "conformance"

Case = dict[str, Any]


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def kind_of(case: Case) -> str:
    """forward, grad or error."""
    return "error" if case.get("error") else str(case["op"])


class Golden:
    """The cases of one folder; arrays are read when a case asks for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, dict[str, np.ndarray]] = {}

    @cached_property
    def cases(self) -> list[Case]:
        return list(json.loads((self.folder / "manifest.json").read_text())["cases"])

    def select(self, dtype: str, kind: str) -> list[Case]:
        return [case for case in self.cases if case["dtype"] == dtype and kind_of(case) == kind]

    def array(self, case: Case, key: str) -> np.ndarray:
        if case["file"] not in self._files:
            with np.load(self.folder / case["file"]) as file:
                self._files[case["file"]] = dict(file)
        stored = self._files[case["file"]][case[key]]
        # A fresh copy, so that an implementation that writes to its input cannot spoil another case.
        return stored.view(dtype_of(case["dtype"])).copy()

    @staticmethod
    def range_end(case: Case, key: str) -> Any:
        """None, a NumPy scalar or a vector."""
        end = case.get(key)
        if end is None:
            return None
        dtype = dtype_of(end.get("dtype", case["dtype"]))
        a = np.array([int(bits, 16) for bits in end["bits"]], UINTS[dtype.itemsize]).view(dtype).reshape(end["shape"])
        return a[()] if a.ndim == 0 else a

    def mismatch(self, case: Case, forward: Callable[..., Any], grad: Callable[..., Any]) -> str | None:
        """Run one case; None if the implementation agrees bit for bit, else what is wrong, in one line."""
        x = self.array(case, "input")
        before = x.tobytes()
        ends = (self.range_end(case, "input_min"), self.range_end(case, "input_max"))
        names = ["output"]
        try:
            if case["op"] == "grad":
                names += ["input_min_backprop", "input_max_backprop"]
                results = grad(self.array(case, "gradients"), x, *ends, **case["attrs"])
            else:
                results = (forward(x, *ends, **case["attrs"]),)
        except (ValueError, TypeError) as error:
            return None if case.get("error") else self._describe(case, f"{type(error).__name__}: {error}")
        if case.get("error"):
            return self._describe(case, f"expected an error ({case['error']}: {case['message']}), got a result")
        if x.tobytes() != before:
            return self._describe(case, "the input was changed")
        for name, got in zip(names, results, strict=True):
            text = difference(np.asarray(got), self.array(case, name), x)
            if text:
                return self._describe(case, f"{name}: {text}")
        return None

    @staticmethod
    def _describe(case: Case, text: str) -> str:
        return f"{case['id']} {case['tags']} {case['attrs']} shape {case.get('shape')}: {text}"
