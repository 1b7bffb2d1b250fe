"""`--min-ndim` where nobody gives it: biases and norms stay in float, arrays and lone vectors do not."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Outcome, Qdq
from tests.run.checkpoints import sample, write_safetensors


def quantized(outcome: Outcome) -> list[str]:
    return [row["name"] for row in outcome.report["tensors"] if row["status"] == "quantized"]


def test_vectors_of_a_checkpoint_stay_in_float_and_the_summary_says_so(qdq: Qdq, tiny: Path) -> None:
    report = qdq("stats", tiny, "--format", "json")
    assert quantized(report) == ["layer.0.mlp.weight", "layer.1.mlp.weight", "embed", "wide"]
    assert report.report["settings"]["min_ndim"] == 2
    assert "2 tensors: fewer than 2 dimensions" in qdq("stats", tiny).out


@pytest.mark.parametrize("shape", [(7,), ()])
def test_a_npy_file_is_quantized_whatever_its_shape(qdq: Qdq, tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", sample(shape))
    outcome = qdq("stats", tmp_path / "x.npy", "--format", "json")
    assert len(quantized(outcome)) == 1
    assert outcome.report["settings"]["min_ndim"] == 0


def test_a_checkpoint_without_a_matrix_of_floats_is_quantized(qdq: Qdq, tmp_path: Path) -> None:
    tensors = {"a": sample((7,)), "b": sample(()), "ids": np.zeros((3, 4), np.int64)}
    source = write_safetensors(tmp_path / "m.safetensors", tensors)
    assert quantized(qdq("stats", source, "--format", "json")) == ["a", "b"]


def test_each_input_has_its_own_default(qdq: Qdq, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", sample((7,)))
    source = write_safetensors(tmp_path / "m.safetensors", {"w": sample((4, 6)), "b": sample((4,))})
    outcome = qdq("stats", source, tmp_path / "x.npy", "--format", "json")
    assert quantized(outcome) == ["w", "x"]
    assert outcome.report["settings"]["min_ndim"] is None


@pytest.mark.parametrize("recipe", ["[defaults]\nmin_ndim = 0\n", '[[rules]]\nmatch = "*"\nmin_ndim = 0\n'])
def test_a_recipe_overrides_it(qdq: Qdq, tiny: Path, tmp_path: Path, recipe: str) -> None:
    (tmp_path / "r.toml").write_text(f"schema = 1\n{recipe}")
    outcome = qdq("stats", tiny, "--recipe", tmp_path / "r.toml", "--format", "json")
    assert {"layer.0.norm.bias", "scalar"} <= set(quantized(outcome))


def test_a_rule_for_vectors_alone_is_told_how_to_reach_them(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "*.bias"\nnum_bits = 4\n')
    for command in (("stats", tiny, "--recipe", recipe), ("recipe", "lint", recipe, tiny)):
        outcome = qdq(*command)
        assert outcome.code == 2
        assert "min_ndim = 0 in the rule takes them" in outcome.out + outcome.err


def test_a_run_goes_on_with_the_default_written_out(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert qdq("run", tiny, "-o", out).code == 0
    assert qdq("run", tiny, "-o", out, "--resume", "--min-ndim", 2).code == 0


def test_compare_loses_no_vector_that_differs(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert qdq("run", tiny, "-o", out, "--min-ndim", 0, "--num-bits", 3).code == 0
    assert "layer.0.norm.bias" in quantized(qdq("compare", tiny, out, "--format", "json"))
