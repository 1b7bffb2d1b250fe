"""What `qdq plan` reads beside the model: a saved sweep, an earlier plan, importance, ties, bounds of a recipe."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli import quantize_and_measure
from tests.cli.test_plan import bits_of, plan, tensors
from tests.conftest import Qdq
from tests.run.checkpoints import write_safetensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model" / "model.safetensors", tensors()).parent


SETTINGS = ("-b", "2..6", "-g", 128)


def recipe_lines(model: Path) -> list[str]:
    return (model.parent / "plan.toml").read_text().splitlines()[1:]


def test_a_saved_sweep_gives_the_plan_of_a_measurement(qdq: Qdq, model: Path) -> None:
    sweep = model.parent / "sweep.json"
    assert qdq("sweep", model, *SETTINGS, "--report", sweep).code == 0
    for options in (("--candidates", "int2,int3,int5"), ("--candidates", "int2,int3,int4,int5,int6")):
        measured = plan(qdq, model, "--avg-bits", "4.2", *options)
        expected = recipe_lines(model)
        saved = plan(qdq, model, "--avg-bits", "4.2", "--from", sweep, *(options if "int4" not in options[1] else ()))
        assert recipe_lines(model) == expected
        for key in ("decisions", "tensors", "summary", "loss", "bits", "proof", "lower_bound"):
            assert saved[key] == measured[key]


@pytest.mark.parametrize(
    ("change", "options", "code", "words"),
    [
        (lambda data: data, ("--candidates", "int8"), 2, "has no int8 g128; it has int2 g128"),
        (lambda data: data, ("--exclude", "lm_head.weight"), 2, "has another spec under"),
        (lambda data: data, ("--scale-bits", 8), 2, "--scale-bits 16"),
        (lambda data: data["results"][0].pop("sums"), (), 3, "is not a JSON report of qdq sweep"),
        (lambda data: data["results"][0]["sums"][0].update(floats=""), (), 3, "is not a JSON report of qdq sweep"),
        (lambda data: data["results"][0]["tensors"].pop(), (), 2, "tensors, the input"),
        (lambda data: data["results"][1]["tensors"][0].update(shape=[1]), (), 2, "has another shape"),
        (lambda data: data["results"][1]["setting"].update(x=1), (), 3, "is not a JSON report of qdq sweep"),
        (lambda data: data["results"][0]["setting"].update(num_bits="4"), (), 3, "sweep.json: num_bits is '4'"),
        (lambda data: data.clear(), (), 3, "is not a JSON report of qdq sweep"),
    ],
)
def test_a_sweep_of_something_else_is_refused(
    qdq: Qdq, model: Path, change: Any, options: tuple[Any, ...], code: int, words: str
) -> None:
    sweep = model.parent / "sweep.json"
    assert qdq("sweep", model, *SETTINGS, "--report", sweep).code == 0
    data = json.loads(sweep.read_text())
    change(data)
    sweep.write_text(json.dumps(data))
    outcome = qdq("plan", model, "--avg-bits", 4, "-o", model.parent / "p.toml", "--from", sweep, *options)
    assert outcome.code == code, outcome.err
    assert words in outcome.error


def test_an_earlier_plan_is_shown_beside_and_never_beats_it(qdq: Qdq, model: Path) -> None:
    old = model.parent / "old.toml"
    assert qdq("plan", model, "--avg-bits", "4.5", "--objective", "energy", "-o", old).code == 0
    report = plan(qdq, model, "--avg-bits", "4.5", "--against", old)
    by_old = qdq("stats", model, "--recipe", old, "--format", "json").report
    old_loss = sum(row["stats"]["relative_l2"] ** 2 for row in by_old["tensors"] if row["status"] == "quantized")
    assert report["loss"] <= old_loss
    shown = qdq("plan", model, "--avg-bits", "4.5", "--against", old, "-o", model.parent / "new.toml").out
    assert "against       4.4" in shown
    old.write_text('[defaults]\nscheme = "int7-channel"\n')
    outcome = qdq("plan", model, "--avg-bits", 4, "--against", old, "-o", model.parent / "x.toml")
    assert outcome.code == 2
    assert "settings that no candidate has" in outcome.error


def test_bounds_of_recipe_rules_hold(qdq: Qdq, model: Path) -> None:
    recipe = model.parent / "bounds.toml"
    recipe.write_text(
        '[[rules]]\nmatch = "*embed*"\nmin_bits = 5\n[[rules]]\nmatch = "*down_proj*"\nmax_bits = 3\n'
        '[[rules]]\nmatch = "*o_proj*"\nmin_bits = 4\nmax_bits = 4\n'
    )
    bits = bits_of(plan(qdq, model, "--avg-bits", "4.6", "--recipe", recipe, "--min-bits", "2"))
    assert all(number >= 5 for name, number in bits.items() if "embed" in name)
    assert all(number <= 3 for name, number in bits.items() if "down_proj" in name)
    assert all(number == 4 for name, number in bits.items() if "o_proj" in name)
    assert qdq("stats", model, "--recipe", recipe, "-b", 4).code == 0
    recipe.write_text('[[rules]]\nmatch = "*"\nmin_bits = 5\nmax_bits = 4\n')
    assert "min_bits is above max_bits" in qdq("stats", model, "--recipe", recipe).error


def test_a_file_adds_and_removes_ties(qdq: Qdq, model: Path) -> None:
    ties = model.parent / "ties.toml"
    ties.write_text(
        '[[together]]\nmatch = ["*.o_proj.weight", "*.down_proj.weight"]\nby_layer = true\n'
        '[[apart]]\nmatch = "*.k_proj.weight"\n'
    )
    report = plan(qdq, model, "--avg-bits", "4.2", "--tie", ties)
    named = [decision["tensors"] for decision in report["decisions"] if "layers" in decision["tensors"][0]]
    groups = [names for names in named if len(names) > 1]
    assert sorted(groups) == [
        [f"model.layers.{n}.mlp.down_proj.weight", f"model.layers.{n}.self_attn.o_proj.weight"] for n in range(3)
    ]
    for text, words in (
        ('[[together]]\nmatch = "lm_head.weight"\n', ":2: group 1 holds 'lm_head.weight' alone"),
        ('[[together]]\nmatch = "nothing"\n', "matches no planned tensor"),
        ('[[apart]]\nmatch = "nothing"\n', "exception 1: 'nothing' matches no planned tensor"),
        ('[[togehter]]\nmatch = "*"\n', "the nearest is together"),
    ):
        ties.write_text(text)
        outcome = qdq("plan", model, "--avg-bits", 4, "--tie", ties, "-o", model.parent / "x.toml")
        assert outcome.code == 2
        assert words in outcome.error


@pytest.mark.parametrize("scheme", ["int3", "int3-channel", "int3-tensor"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_factors_per_input_channel_weight_the_errors(qdq: Qdq, model: Path, scheme: str, suffix: str) -> None:
    path, arrays, random = model.parent / f"importance{suffix}", {}, np.random.default_rng(3)
    weights = {name: array for name, array in tensors().items() if array.ndim == 2}
    for name, array in weights.items():
        arrays[name] = random.uniform(0, 2, array.shape[1]).astype("<f4") if "layers" in name else np.float32(3)
    np.savez(path, **arrays) if suffix == ".npz" else write_safetensors(path, arrays)
    options = ("--candidates", scheme, "--avg-bits", 8, "--importance", path, "--tie", "none")
    decisions = plan(qdq, model, *options)["decisions"]
    granularity = {"int3": {"group_size": 128}, "int3-channel": {"axis": 0}, "int3-tensor": {}}[scheme]
    expected = {}
    for name, x in weights.items():
        y, _ = quantize_and_measure(x, num_bits=3, **granularity)
        e2, x2, w = (y.astype("f8") - x) ** 2, x.astype("f8") ** 2, arrays[name].astype("f8")
        expected[name] = (e2 * w).sum() / (x2 * w).sum() if np.ndim(w) else 3 * e2.sum() / x2.sum()
    for decision in decisions:
        loss = sum(expected.pop(name) for name in decision["tensors"])
        assert decision["candidates"][0]["loss"] == pytest.approx(loss, rel=1e-7), decision["name"]
    assert not expected


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"lm_head.weight": np.ones(3, "<f4")}, "has nothing for"),
        ({"*": np.float32(1), "lm_head.weight": np.ones(3, "<f4")}, "has 3 numbers; its last dimension has 256"),
        ({"*": np.float32(1), "lm_haed.weight": np.ones(256, "<f4")}, "'lm_haed.weight' matches no planned tensor"),
        ({"*": np.float32(-1)}, "expected numbers from 0"),
        ({"*": np.ones((2, 2), "<f4")}, "expected a number, or a vector"),
    ],
)
def test_factors_that_do_not_fit_are_refused(qdq: Qdq, model: Path, arrays: dict[str, Any], words: str) -> None:
    path = write_safetensors(
        model.parent / "i.safetensors", {name: np.asarray(array) for name, array in arrays.items()}
    )
    outcome = qdq("plan", model, "--avg-bits", 4, "--importance", path, "-o", model.parent / "x.toml")
    assert outcome.code == 2
    assert words in outcome.error
