"""Pick a small part of the golden vectors: `python tests/conformance/make_subset.py ../shared/conformance`.

Goes through the cases in their order and keeps one if it shows something that no kept case has shown yet, so the
same vectors give the same subset, byte for byte.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
ARRAYS = ("input", "output", "gradients", "input_min_backprop", "input_max_backprop")
MAX_ELEMENTS = 100
OTHERS = ("bfloat16", "float16", "float64")
TELLING_BITS = (*range(1, 10), 11, 12, 16, 17, 24, 25, 32, 53, 54, 55, 61, 62)
# The one case of more than MAX_ELEMENTS elements: several chunks and slices, and small when compressed.
LARGE_CASE = "shared-bfloat16-03676"


def features(case: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """What a case shows: its tags, and the combinations of attributes that take ways of their own."""
    dtype, attrs = case["dtype"], case["attrs"]
    if case.get("error"):
        yield case["op"], case["error"], attrs["axis"] >= 0, attrs.get("num_bits", 0) < 1, attrs.get("signed_input")
        return
    if "edge" in case["tags"]:
        # Every edge in float32, and in one of the other dtypes by turns.
        tag = case["tags"][-1]
        if dtype in ("float32", OTHERS[sum(tag.encode()) % len(OTHERS)]):
            yield dtype, tag
        return
    for tag in case["tags"]:
        yield dtype, tag
    yield dtype, case["oracle"], len(case["shape"])
    if case["op"] == "grad":
        return
    if attrs["num_bits"] in TELLING_BITS:
        yield dtype, "bits", attrs["num_bits"]
    yield dtype, attrs["round_mode"], attrs["range_given"], attrs["signed_input"], attrs["axis"] >= 0


def pick(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for case in cases:
        new = set(features(case)) - seen
        if case["id"] == LARGE_CASE or (new and math.prod(case["shape"]) <= MAX_ELEMENTS):
            kept.append(case)
            seen |= new
    return kept


def main(source: Path) -> None:
    manifest = json.loads((source / "manifest.json").read_text())
    files: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    cases = []
    for case in pick(manifest["cases"]):
        if case["file"] not in files:
            files[case["file"]] = np.load(source / case["file"])
        renamed = dict(case, file="vectors.npz")
        for key in ARRAYS:
            if case.get(key) is not None:
                renamed[key] = f"{case['dtype']}-{case[key]}"
                arrays[renamed[key]] = files[case["file"]][case[key]]
        cases.append(renamed)
    np.savez_compressed(FOLDER / "vectors.npz", **arrays)
    head = {key: manifest[key] for key in ("format", "source", "oracles", "notes") if key in manifest}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (FOLDER / "manifest.json").write_text(f'{json.dumps(head)[:-1]}, "cases": [\n{lines}\n]}}\n')
    print(f"{len(cases)} of {len(manifest['cases'])} cases, {len(arrays)} arrays")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
