"""Tensors of one name are paired by their files."""

import pytest

from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.pairing import counterparts


def at(*places: str) -> list[tuple[str, FileRef]]:
    """`a/m.safetensors:w`, within an INPUT that has the first component's name."""
    found = []
    for place in places:
        path, _, name = place.partition(":")
        found.append((name, FileRef(f"input/{path}", path.count("/") + 1)))
    return found


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (["m:w", "m:v"], ["m:v", "m:w"], [1, 0]),
        (["m-1:w"], ["m:w"], [0]),
        (["a/m:w"], ["b/n:w"], [0]),
        (["a/m:w", "b/m:w"], ["b/m:w", "a/m:w"], [1, 0]),
        (["a/m-1:w", "b/m:w"], ["b/m:w", "a/m:w"], [1, 0]),
        (["a/m:w", "b/m:w"], ["a/m:w"], [0, None]),
        (["a/m:w"], ["a/m:w", "b/m:w"], [0]),
        (["a/m:w", "b/m:w"], ["a/m:w", "c/m:w"], [0, None]),
        (["m-1:w", "model:w"], ["model:w", "m-1:w"], [1, 0]),
        (["m-1:w", "model:w"], ["x:w", "y:w"], [None, None]),
        (["m:w", "m:w"], ["m:w", "m:w"], [0, 1]),
        (["m:w"], ["m:v"], [None]),
        ([], ["m:v"], []),
    ],
)
def test_counterparts(ours: list[str], theirs: list[str], pairs: list[int | None]) -> None:
    assert counterparts(at(*ours), at(*theirs)) == pairs
