"""`qdq plan` as a user calls it: the recipe it writes, what it promises and what it refuses."""

import json
import re
import tomllib
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.study.solver import solve
from qdqcli.study.ties import make_ties
from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors

LAYERS, WIDTH = 3, 256


def weights(seed: int, rows: int, spread: float) -> np.ndarray:
    """Rows of normal data whose tails grow with `spread`."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, WIDTH)) * np.exp(spread * random.standard_normal((rows, WIDTH)))).astype(
        "<f4"
    )


def tensors() -> dict[str, np.ndarray]:
    found = {"model.embed_tokens.weight": weights(1, 48, 0.2), "lm_head.weight": weights(1, 48, 0.2)}
    for layer in range(LAYERS):
        for number, module in enumerate(("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")):
            seed = 10 * layer + number
            found[f"model.layers.{layer}.{module}.weight"] = weights(seed, 8 * (number + 1), 0.3 * number)
        found[f"model.layers.{layer}.norm.weight"] = np.ones(WIDTH, "<f4")
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model" / "model.safetensors", tensors()).parent


def plan(qdq: Qdq, model: Path, *arguments: object) -> dict[str, Any]:
    outcome = qdq("plan", model, "-o", model.parent / "plan.toml", "--overwrite", *arguments, "--format", "json")
    assert outcome.code == 0, outcome.err
    return outcome.report


def bits_of(report: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["spec"]["num_bits"] for row in report["tensors"] if row["status"] == "quantized"}


@pytest.mark.parametrize(
    "goal", [("--avg-bits", "4.3"), ("--min-sqnr", "15"), ("--min-sqnr", "15", "--summary"), ("--max-loss", "0.5")]
)
@pytest.mark.parametrize("tie", ["auto", "none"])
def test_the_recipe_gives_the_figures_of_the_plan_to_the_last_digit(
    qdq: Qdq, model: Path, goal: tuple[str, ...], tie: str
) -> None:
    report = plan(qdq, model, *goal, "--tie", tie, "--candidates", "int2,int3,int4,int5-channel,int8,float")
    measured = qdq("stats", model, "--recipe", model.parent / "plan.toml", "--format", "json").report
    keys = ("name", "spec", "range", "stats")
    quantized = [row for row in report["tensors"] if row["status"] == "quantized"]
    assert [{k: row[k] for k in keys} for row in quantized] == [
        {k: row[k] for k in keys} for row in measured["tensors"] if row["status"] == "quantized"
    ]
    assert report["summary"]["sqnr_db"] == measured["summary"]["sqnr_db"]
    assert "--summary" not in goal or measured["summary"]["sqnr_db"] >= 15


def test_the_budget_is_never_exceeded_and_the_loss_never_rises_with_it(qdq: Qdq, model: Path) -> None:
    losses = []
    for average in ("2.2", "3", "3.9", "4.125", "5", "8.2"):
        report = plan(qdq, model, "--avg-bits", average)
        assert report["bits"] <= report["budget_bits"]
        assert report["bits_per_weight"] <= float(average)
        assert report["proof"] == "exact"
        losses.append(report["loss"])
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("objective", ["relative", "energy", "worst"])
def test_no_uniform_candidate_that_fits_is_better(qdq: Qdq, model: Path, objective: str) -> None:
    for bits in (3, 4, 5):
        report = plan(qdq, model, "--avg-bits", f"{bits}.125", "--objective", objective)
        uniform = [
            next(c for c in decision["candidates"] if c["name"] == f"int{bits} g128")
            for decision in report["decisions"]
        ]
        losses = [candidate["loss"] for candidate in uniform]
        assert sum(candidate["bits"] for candidate in uniform) <= report["budget_bits"]
        assert report["loss"] <= (max(losses) if objective == "worst" else sum(losses)) * (1 + 1e-12)


def test_tensors_of_equal_bytes_are_counted_once_and_never_differ(qdq: Qdq, model: Path) -> None:
    report = plan(qdq, model, "--avg-bits", "4.3")
    (decision,) = [d for d in report["decisions"] if "lm_head.weight" in d["tensors"]]
    assert decision["tensors"] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert decision["num_elements"] == 48 * WIDTH


def test_members_of_a_tie_never_differ(qdq: Qdq, model: Path) -> None:
    chosen = bits_of(plan(qdq, model, "--avg-bits", "3.7"))
    names = list(chosen)
    for tie in make_ties(names):
        assert len({chosen[names[member]] for member in tie.members}) == 1
    assert len(set(chosen.values())) > 1


def test_neither_shards_nor_threads_nor_order_change_the_recipe(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    plan(qdq, model, "--avg-bits", "3.7", "--threads", 1)
    once = (tmp_path / "plan.toml").read_text()
    other = tmp_path / "other"
    shuffled = list(reversed(tensors().items()))
    write_safetensors(other / "b.safetensors", dict(shuffled[::2]))
    write_safetensors(other / "a.safetensors", dict(shuffled[1::2]))
    plan(qdq, other, "--avg-bits", "3.7", "--threads", 4)
    again = (tmp_path / "plan.toml").read_text()

    def body(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(("# Bit allocation", "# Headers"))]

    assert body(again) == body(once)


def test_a_pin_and_a_skip_of_the_recipe_hold(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    rules = '[[rules]]\nmatch = "*o_proj*"\nnum_bits = 7\n[[rules]]\nmatch = "lm_head.weight"\nskip = "tied"\n'
    (tmp_path / "base.toml").write_text(rules)
    report = plan(qdq, model, "--avg-bits", "4.3", "--recipe", tmp_path / "base.toml")
    chosen = bits_of(report)
    assert {bits for name, bits in chosen.items() if "o_proj" in name} == {7}
    assert "lm_head.weight" not in chosen
    measured = qdq("stats", model, "--recipe", tmp_path / "plan.toml", "--format", "json").report
    assert bits_of(measured) == chosen


def test_bounds_and_back_ends_limit_the_choice(qdq: Qdq, model: Path) -> None:
    chosen = bits_of(plan(qdq, model, "--avg-bits", "4.3", "--min-bits", "*q_proj*=5", "--max-bits", "*down*=3"))
    assert min(bits for name, bits in chosen.items() if "q_proj" in name) >= 5
    assert max(bits for name, bits in chosen.items() if "down" in name) <= 3
    assert set(bits_of(plan(qdq, model, "--avg-bits", "6", "--backend", "vllm")).values()) <= {4, 8}


def test_what_matters_more_gets_more_bits(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    (tmp_path / "importance.json").write_text(json.dumps({"*layers.1.*": 1e6}))
    plain = bits_of(plan(qdq, model, "--avg-bits", "4.3"))
    weighted = bits_of(plan(qdq, model, "--avg-bits", "4.3", "--importance", tmp_path / "importance.json"))
    first, second = ([chosen[name] for name in chosen if "layers.1." in name] for chosen in (plain, weighted))
    assert sum(second) > sum(first)


def test_the_target_size_is_that_of_the_whole_packed_file(qdq: Qdq, model: Path) -> None:
    file = model / "model.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    norms = LAYERS * WIDTH * 4
    report = plan(qdq, model, "--target-size", "32000")
    assert report["budget_bits"] == 8 * (32000 - header - norms)
    assert report["bits"] <= report["budget_bits"]


def test_patterns_fold_over_layers(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    least = [word for pattern in ("*down*", "*embed*", "*head*") for word in ("--min-bits", f"{pattern}=6")]
    plan(qdq, model, "--avg-bits", "5", "--candidates", "int3,int6", *least, "--max-bits", "*attn*=3")
    rules = tomllib.loads((tmp_path / "plan.toml").read_text())["rules"]
    patterns = {pattern for rule in rules for pattern in rule["match"]}
    assert patterns & {"model.layers.*.self_attn.q_proj.weight", "model.layers.*.mlp.down_proj.weight"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--avg-bits", "2"), "the floor of these candidates is 2.125"),
        (("--avg-bits", "4", "--max-loss", "1"), "give one of"),
        ((), "give one of"),
        (("--avg-bits", "four"), "is not a number of bits"),
        (("--avg-bits", "nan"), "is not a number of bits"),
        (("--avg-bits", "1e999999999"), "is not a number of bits"),
        (("--avg-bits", "1e-999999999"), "is not a number of bits"),
        (("--target-size", "9" * 400), "is not a size"),
        (("--max-loss", "nan"), "is not a number such as"),
        (("--min-sqnr", "inf"), "is not a number such as"),
        (("--min-sqnr", "300"), "with its best candidate"),
        (("--min-sqnr", "300", "--summary"), "the best candidates reach 37.55 dB over all elements"),
        (("--avg-bits", "4", "--summary"), "--summary is for --min-sqnr"),
        (("--max-loss", "1e-12"), "the least loss of these candidates"),
        (("--max-loss", "1e-12", "--objective", "worst"), "the least loss of these candidates"),
        (("--avg-bits", "4", "--candidates", "float"), "there is no setting among the candidates"),
        (("--avg-bits", "4", "--candidates", "fp8"), "is not a candidate"),
        (("--avg-bits", "4", "--candidates", "int5", "--backend", "awq"), "none of int5 is left"),
        (("--avg-bits", "4", "--min-bits", "9"), "no candidate is left"),
        (("--avg-bits", "4", "--format", "sarif"), "'sarif' is not one of 'table', 'json', 'markdown', 'html', 'none'"),
    ],
)
def test_what_cannot_be_planned_is_a_usage_error(
    qdq: Qdq, model: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    outcome = qdq("plan", model, "-o", tmp_path / "plan.toml", *arguments)
    assert outcome.code == 2
    assert words in outcome.error
    assert not (tmp_path / "plan.toml").exists()


@pytest.mark.parametrize(
    "goal", [("--max-loss", "1e308"), ("--min-sqnr", "-5000"), ("--min-sqnr", "-5000", "--summary")]
)
def test_a_goal_that_everything_keeps_gives_the_smallest_candidates(
    qdq: Qdq, model: Path, goal: tuple[str, ...]
) -> None:
    assert set(bits_of(plan(qdq, model, *goal, "--candidates", "int2,int4")).values()) == {2}


def test_a_limit_of_the_worst_loss_holds_for_each_decision_by_itself(qdq: Qdq, model: Path) -> None:
    candidates = "--candidates", "int3,int4,int6,int8"
    by_loss = plan(qdq, model, "--max-loss", "0.01", "--objective", "worst", *candidates, "--tie", "none")
    by_sqnr = plan(qdq, model, "--min-sqnr", "20", *candidates, "--tie", "none")  # a relative error of 0.01
    assert bits_of(by_loss) == bits_of(by_sqnr)
    assert by_loss["loss"] <= 0.01


@pytest.mark.parametrize("candidates", ["int3,int5", "int3,int5,float"])
def test_the_sqnr_of_all_elements_is_reached_at_the_smallest_size(qdq: Qdq, model: Path, candidates: str) -> None:
    """Against all choices: tensors in float are no part of the SQNR, and equal tensors count once in the size."""
    report = plan(qdq, model, "--min-sqnr", "19", "--summary", "--candidates", candidates)
    sums = []
    for name in candidates.split(",")[:2]:
        measured = qdq("stats", model, "-s", f"{name}-g128", "--format", "json").report
        squares = {row["name"]: (row["stats"]["mse"], row["stats"]["relative_l2"] ** 2, row["stats"]["num_elements"])
                   for row in measured["tensors"] if row["status"] == "quantized"}  # fmt: skip
        sums.append({name: (mse * n, mse * n / relative) for name, (mse, relative, n) in squares.items()})
    best = 1 << 62
    for choice in product(*(decision["candidates"] for decision in report["decisions"])):
        error = energy = 0.0
        for decision, one in zip(report["decisions"], choice, strict=True):
            if one["name"] != "float":
                own = sums[one["name"].startswith("int5")]
                error += sum(own[name][0] for name in decision["tensors"])
                energy += sum(own[name][1] for name in decision["tensors"])
        if error <= energy / 10**1.9 and energy:
            best = min(best, sum(one["bits"] for one in choice))
    assert report["bits"] == best
    assert report["summary"]["sqnr_db"] >= 19


def test_the_upper_bound_of_bits_holds_for_float_too(qdq: Qdq, model: Path) -> None:
    most = "--max-bits", "*down*=4"
    report = plan(qdq, model, "--avg-bits", "30", "--candidates", "int4,float", *most)
    assert {bits for name, bits in bits_of(report).items() if "down" in name} == {4}
    assert sum("down" in name for name in bits_of(report)) == LAYERS


def test_a_tensor_that_no_candidate_fits_is_not_left_out_silently(qdq: Qdq, tmp_path: Path) -> None:
    values = {"odd.weight": weights(1, 8, 0.2)[:, :97].copy(), "usual.weight": weights(2, 8, 0.2)}
    model = write_safetensors(tmp_path / "m.safetensors", values)
    command = "plan", model, "--avg-bits", "5", "-o", tmp_path / "plan.toml"
    outcome = qdq(*command)
    assert outcome.code == 2
    assert "'odd.weight': no candidate fits: group_size 128 does not divide the last dimension" in outcome.error
    assert qdq(*command, "--exclude", "odd.weight").code == 0
    fitting = qdq(*command, "--candidates", "int4,int4-channel", "--overwrite", "--format", "json")
    assert set(bits_of(fitting.report)) == set(values)
    as_float = qdq(*command, "--avg-bits", "20", "--candidates", "int4,int8,float", "--overwrite", "--format", "json")
    odd = next(decision for decision in as_float.report["decisions"] if decision["name"] == "odd.weight")
    assert (odd["choice"], odd["candidates"][0]["bits"]) == ("float", 8 * 97 * 32)
    assert as_float.report["bits_per_weight"] == (8 * 97 * 32 + 8 * 256 * 8.125) / (8 * 97 + 8 * 256)
    floor = qdq(*command, "--candidates", "int4,float", "--overwrite")
    assert (floor.code, "most in odd.weight" in floor.error) == (2, True)


def test_a_tensor_whose_squares_overflow_is_named(qdq: Qdq, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 128))
    model = write_safetensors(tmp_path / "m.safetensors", {"huge": values * 1e300, "usual": values})
    outcome = qdq("plan", model, "--avg-bits", "5", "-o", tmp_path / "plan.toml")
    assert outcome.code == 2
    assert "huge: its squares leave the range of float64" in outcome.error


def test_a_recipe_that_exists_is_not_replaced_unasked(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "plan.toml"
    for text, options, words in (
        ("", (), "pass --overwrite"),
        ("mine", ("--overwrite",), "it is not a recipe"),
        ("[project]\nname = 'x'\n", ("--overwrite",), "it is not a recipe"),
    ):
        recipe.write_text(text)
        outcome = qdq("plan", model, "-o", recipe, "--avg-bits", "4", *options)
        assert outcome.code == 2
        assert words in outcome.error
        assert recipe.read_text() == text


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a": -1}', '{"a": "x"}', '{"a": true}', '{"a": NaN}', '{"a": 1e300}', "[" * 10**6]
)
def test_an_importance_file_of_another_kind_is_refused(qdq: Qdq, model: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "importance.json").write_text(text)
    outcome = qdq(
        "plan", model, "-o", tmp_path / "p.toml", "--avg-bits", "4", "--importance", tmp_path / "importance.json"
    )
    assert outcome.code == 2
    assert "importance.json" in outcome.error


def test_tensors_of_one_name_in_two_files_are_told_apart(qdq: Qdq, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    write_safetensors(folder / "unet" / "model.safetensors", {"w": weights(1, 16, 0.0)})
    write_safetensors(folder / "vae" / "model.safetensors", {"w": weights(2, 16, 0.9)})
    report = plan(qdq, folder, "--avg-bits", "4.3", "--candidates", "int3,int5")
    measured = qdq("stats", folder, "--recipe", tmp_path / "plan.toml", "--format", "json").report
    assert [row["stats"] for row in measured["tensors"]] == [row["stats"] for row in report["tensors"]]
    assert len({row["spec"]["num_bits"] for row in measured["tensors"]}) == 2


def test_the_frontier_falls_from_the_floor_to_the_best(qdq: Qdq, model: Path) -> None:
    report = plan(qdq, model, "--avg-bits", "4.3", "--frontier", 9)
    points = report["frontier"]
    assert [point["bits"] for point in points] == sorted(point["bits"] for point in points)
    assert [point["loss"] for point in points] == sorted((point["loss"] for point in points), reverse=True)
    assert points[0]["bits_per_weight"] == 2.125
    assert points[-1]["bits_per_weight"] == 8.125


def test_a_decision_is_explained_by_its_candidates(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    out = qdq("plan", model, "-o", tmp_path / "p.toml", "--avg-bits", "4.3", "--explain", name).out
    start = next(k for k, line in enumerate(out.splitlines()) if "q_proj+k_proj" in line and "tensors," in line)
    lines = out.splitlines()[start + 1 : start + 7]
    assert [line.split(":")[0].strip() for line in lines] == [f"int{bits} g128" for bits in (2, 3, 4, 5, 6, 8)]
    assert sum(line.endswith("chosen") for line in lines) == 1
    why = out.splitlines()[start + 7]
    assert "the price of a bit is " in why
    assert "a step up saves at most 0." in why
    assert "a step down loses at least " in why
    outcome = qdq("plan", model, "-o", tmp_path / "q.toml", "--avg-bits", "4.3", "--explain", name + "s")
    assert outcome.code == 2
    assert name in outcome.error


def test_every_decision_has_the_price_of_its_next_steps(qdq: Qdq, model: Path) -> None:
    report = plan(qdq, model, "--avg-bits", "4.3", "--tie", "none")
    price = report["loss_per_bit"]
    unused = report["budget_bits"] - report["bits"]
    for decision in report["decisions"]:
        options = decision["candidates"]
        at = next(k for k, option in enumerate(options) if option["name"] == decision["choice"])
        for key, other in (("step_up", at + 1), ("step_down", at - 1)):
            step = decision[key]
            if not 0 <= other < len(options):
                assert step is None
                continue
            added = options[other]["bits"] - options[at]["bits"]
            gain = options[other]["lowest_sqnr_db"] - options[at]["lowest_sqnr_db"]
            assert step["name"] == options[other]["name"]
            assert (step["bits_added"], step["gain_db"]) == (added, gain)
            assert step["db_per_mb"] == pytest.approx(gain / (added / 8e6))
            if key == "step_up" and step["loss_per_bit"] > price:
                assert added > unused
    words = "plan", model, "--avg-bits", "4.3", "--format", "markdown", "-o", model.parent / "plan.toml", "--overwrite"
    shown = qdq(*words).out
    assert "step up, dB/MB | step down, dB/MB |" in shown
    header = (model.parent / "plan.toml").read_text().splitlines()[:5]
    assert header[0].startswith("# Bit allocation by: qdq plan ")
    assert re.fullmatch(r"# Headers of the input: sha256 [0-9a-f]{64}", header[1])
    assert re.fullmatch(r"# 4\.\d{4} bits per weight, [\d,]+ bits", header[2])
    assert header[3].startswith("# Loss: relative 0.")
    assert header[4] == "# Proof: exact, gap 0"


@pytest.mark.parametrize(("backend", "code"), [("mlx", 0), ("any", 2)])
def test_the_export_of_a_plan_keeps_the_limits_of_the_engine(qdq: Qdq, model: Path, backend: str, code: int) -> None:
    recipe = model.parent / "plan.toml"
    words = "--exclude", "*embed*", "--exclude", "lm_head*"
    plan(qdq, model, "--avg-bits", "4.5", "--backend", backend, "--candidates", "int4,int7,int8", *words)
    outcome = qdq("recipe", "export", recipe, model, "--to", "mlx", "-o", model.parent / "q.json")
    assert outcome.code == code, outcome.err
    assert not code or "int7" in outcome.error


def test_the_size_is_that_of_a_reference_packer(qdq: Qdq, model: Path) -> None:
    """Codes packed bit by bit and scales of 16 bits, and what `inspect` says of the written recipe."""
    report = plan(qdq, model, "--avg-bits", "4.3", "--tie", "none", "--candidates", "int2,int3,int5,int8")
    specs = {row["name"]: row["spec"] for row in report["tensors"] if row["status"] == "quantized"}
    packed = 0
    for name, x in tensors().items():
        if name in specs and name != "lm_head.weight":  # equal to the embedding: stored once
            bits, size = specs[name]["num_bits"], specs[name]["group_size"]
            groups = x.reshape(-1, size)
            scales = (np.abs(groups).max(axis=1, keepdims=True) / 2 ** (bits - 1)).astype("<f2")
            codes = np.clip(np.rint(groups / scales), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int8)
            planes = [(codes >> bit) & 1 for bit in range(bits)]
            packed += len(np.packbits(np.stack(planes).astype(np.uint8)).tobytes()) + scales.nbytes
    assert 8 * packed == report["bits"]
    inspected = qdq("inspect", model, "--recipe", model.parent / "plan.toml", "--format", "json").report
    rows = [row for row in inspected["tensors"] if row["status"] == "quantized"]
    assert {row["name"]: row["spec"] for row in rows} == specs
    once = [row["stats"] for row in rows if row["name"] != "lm_head.weight"]
    assert sum(stats["bits_per_weight"] * stats["num_elements"] for stats in once) == report["bits"]


def test_a_plan_at_the_floor_or_the_ceiling_decides_nothing(qdq: Qdq, model: Path) -> None:
    output = model.parent / "plan.toml"
    for average, words in (("2.125", "smallest candidate"), ("9", "best candidate"), ("4", None)):
        shown = qdq("plan", model, "--avg-bits", average, "-o", output, "--overwrite").out
        assert ("nothing was decided" in shown) is (words is not None)
        assert words is None or words in shown


@pytest.mark.parametrize(
    ("goal", "verb", "least"),
    [(("--avg-bits", "4"), "lose", "least loss"), (("--max-loss", "0.5"), "take", "smallest size")],
)
def test_a_gap_is_a_warning(
    qdq: Qdq, model: Path, monkeypatch: pytest.MonkeyPatch, goal: tuple[str, str], verb: str, least: str
) -> None:
    monkeypatch.setattr("qdqcli.cli.plan.LARGEST_GAP", 0.0)
    monkeypatch.setattr("qdqcli.study.allocation.solve", partial(solve, max_states=1))
    outcome = qdq("plan", model, *goal, "--tie", "none", "-o", model.parent / "plan.toml")
    assert outcome.code == 0
    (gap,) = re.findall(rf"proof         within (.*%) of the {least}", outcome.out)
    assert f"warning: the plan may {verb} up to {gap} more than the best one" in outcome.err


def test_an_engine_says_what_it_stores(qdq: Qdq, model: Path) -> None:
    outcome = qdq("plan", model, "--avg-bits", "4", "--backend", "gguf", "-o", model.parent / "plan.toml")
    assert outcome.code == 2
    assert "gguf stores int4, int5, int8 in groups of 32" in outcome.error
    report = plan(qdq, model, "--avg-bits", "5", "--backend", "gguf", "-g", 32)
    assert set(bits_of(report).values()) <= {4, 5, 8}


def test_a_budget_below_the_floor_names_what_takes_it(qdq: Qdq, tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "m.safetensors", {"big": sample((64, 128)), "small": sample((4, 128))})
    outcome = qdq(
        "plan", source, "--avg-bits", "2", "--candidates", "int4-g128,int8-channel", "-o", tmp_path / "p.toml"
    )
    assert outcome.code == 2
    assert "most in big (4,224 bytes), small (264 bytes); raise the budget" in outcome.error


def test_an_earlier_plan_that_does_not_fit_is_named(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.toml"
    old.write_text("[defaults]\nnum_bits = 4\ngroup_size = 1000\n")
    outcome = qdq(
        "plan", tiny, "--avg-bits", "20", "-o", tmp_path / "p.toml", "--against", old, "--candidates", "int4-tensor"
    )
    assert outcome.code == 2
    assert str(old) in outcome.error
