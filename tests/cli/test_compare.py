"""`qdq compare`: two checkpoints measured against each other, however they are stored."""

import json
from pathlib import Path

import numpy as np
import pytest

from qdqcli.recipe.rename import suggestion
from tests.cli.test_targets import SAMPLES
from tests.conftest import TINY, Outcome, Qdq
from tests.run.checkpoints import pipeline, sample, write_safetensors

LLAMA = SAMPLES / "tiny-llama"


def stats(outcome: Outcome) -> dict[str, dict[str, float | None]]:
    return {row["name"]: row["stats"] for row in outcome.report["tensors"] if row["status"] == "quantized"}


@pytest.mark.parametrize("source", ["tiny", "llama"])
def test_what_was_written_measures_as_it_did_when_it_was_made(
    qdq: Qdq, tiny: Path, tmp_path: Path, source: str
) -> None:
    path = tiny if source == "tiny" else LLAMA
    out = tmp_path / ("out" + path.suffix)
    made = stats(qdq("run", path, "-o", out, "--num-bits", 5, "--min-ndim", 0, "--format", "json"))
    found = qdq("compare", path, out, "--format", "json")
    assert found.code == 0
    assert found.err == ""
    for name, values in stats(found).items():
        assert values["clipped_fraction"] is None, "no grid is known"
        unknown = ("clipped_fraction", "num_degenerate", "bits_per_weight", "exact")
        assert {k: v for k, v in values.items() if k not in unknown} == {
            k: v for k, v in made[name].items() if k not in unknown
        }


def test_the_same_bits_for_any_threads_and_blocks(qdq: Qdq, tmp_path: Path) -> None:
    x, y = sample((300, 1000), "F32", 1), sample((300, 1000), "F32", 2)
    x[5, 7], y[100, 3] = np.nan, np.inf
    pair = [write_safetensors(tmp_path / f"{name}.safetensors", {"w": a}) for name, a in (("x", x), ("y", y))]
    outs = {
        qdq("compare", *pair, "--format", "json", "--threads", threads, "--max-memory", memory).out
        for threads, memory in ((1, "256MiB"), (2, "1MiB"), (5, "2MiB"))
    }
    assert len(outs) == 1
    (found,) = json.loads(outs.pop())["tensors"]
    a, b = x.astype(np.float64), y.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    a, e = a[both], (b - a)[both]
    assert found["stats"]["num_nonfinite"] == found["stats"]["num_nonfinite_output"] == 1
    assert found["stats"]["mse"] == pytest.approx(np.mean(e**2), rel=1.1e-6)
    assert found["stats"]["mean_error"] == pytest.approx(np.mean(e), rel=0, abs=1.1e-6 * np.abs(e).mean())
    assert found["stats"]["max_abs_error"] == pytest.approx(np.abs(e).max(), rel=6e-8)
    assert found["stats"]["input_min"] == a.min()
    assert found["stats"]["cosine_similarity"] == pytest.approx(
        float(a @ (a + e) / np.sqrt(a @ a * ((a + e) @ (a + e)))), rel=1e-5
    )


@pytest.mark.parametrize(
    ("dtype", "other"),
    [("F16", "F16"), ("F16", "F32"), ("F16", "F64"), ("BF16", "F32"), ("F32", "BF16"), ("F32", "F64"), ("F64", "BF16")],
)
def test_dtypes_may_differ_and_are_named(qdq: Qdq, tmp_path: Path, dtype: str, other: str) -> None:
    x, y = sample((5, 7), dtype, 1), sample((5, 7), other, 1)
    pair = [write_safetensors(tmp_path / f"{name}.safetensors", {"w": a}) for name, a in (("x", x), ("y", y))]
    (found,) = qdq("compare", *pair, "--format", "json").report["tensors"]
    assert (found["dtype"], found["candidate"]["dtype"]) == (dtype, other)
    e = y.astype(np.float64) - x.astype(np.float64)
    assert found["stats"]["max_abs_error"] == pytest.approx(np.abs(e).max(), rel=6e-8)
    assert found["stats"]["mse"] == pytest.approx(np.mean(e**2), rel=1e-14)
    shown = qdq("compare", *pair).out
    assert (f"{dtype}→{other}" in shown) is (dtype != other)


def test_shards_may_differ(qdq: Qdq, tiny: Path, model: Path) -> None:
    one = qdq("compare", tiny, model, "--format", "json")
    assert one.code == 0
    assert all(values["max_abs_error"] == 0 for values in stats(one).values())
    assert qdq("compare", model, tiny).code == 0


def failed(outcome: Outcome) -> dict[str, str]:
    return {row["name"]: row["reason"] for row in outcome.report["tensors"] if row["status"] == "failed"}


def test_what_cannot_be_compared_is_named_and_no_budget_lets_it_pass(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    changed = dict(TINY) | {"embed": sample((4, 7), "F16", 4), "mask": ~TINY["mask"], "more": sample((2,))}
    changed["layer.0.norm.bias"] = np.arange(6)
    del changed["wide"]
    other = write_safetensors(tmp_path / "other.safetensors", changed)
    outcome = qdq("compare", tiny, other, "--format", "json")
    assert outcome.code == 0
    assert "5 tensors could not be compared" in outcome.err
    assert failed(outcome) == {
        "embed": "its shape is 7x4, in the candidate 4x7",
        "mask": "BOOL elements differ",
        "layer.0.norm.bias": "its dtype is F32, in the candidate I64",
        "wide": "the candidate has no tensor of this name; --map OLD=NEW renames",
        "more": "the reference has no tensor of this name; --map OLD=NEW renames",
    }
    shown = qdq("compare", tiny, other).out
    assert "warning: not measured: embed: its shape is 7x4, in the candidate 4x7" in shown
    assert "compared      3 tensors" in shown
    assert "bits/weight" not in shown
    budget = tmp_path / "b.toml"
    budget.write_text("[limits]\nmin_sqnr_db = -200\n")
    judged = qdq("compare", tiny, other, "--budget", budget, "--format", "json")
    assert judged.code == 1
    assert {violation["tensor"] for violation in judged.report["verdict"]["violations"]} == set(failed(outcome))
    assert qdq("compare", tiny, tiny, "--budget", budget).code == 0


@pytest.mark.parametrize(
    "renaming", ["layer.*.mlp.weight=blocks.*.ffn.w", r"re:layer\.(\d)\.mlp\.weight=blocks.\1.ffn.w"]
)
def test_names_are_mapped(qdq: Qdq, tiny: Path, tmp_path: Path, renaming: str) -> None:
    renamed = {name.replace("layer.", "blocks.").replace("mlp.weight", "ffn.w") if "mlp" in name else name: array
               for name, array in TINY.items()}  # fmt: skip
    other = write_safetensors(tmp_path / "other.safetensors", renamed)
    outcome = qdq("compare", tiny, other, "--map", renaming, "--format", "json")
    assert failed(outcome) == {}
    rows = {row["name"]: row for row in outcome.report["tensors"]}
    assert rows["layer.1.mlp.weight"]["candidate"]["name"] == "blocks.1.ffn.w"


@pytest.mark.parametrize(
    ("renaming", "message"),
    [
        ("x", "not OLD=NEW"),
        ("layer.*=same", "needs the wildcards"),
        ("nothing.*=other.*", "matches none"),
        ("re:(=x", "not a regular expression"),
        ("re:(wide)=\\2", "invalid group"),
        ("wide=embed", "both become 'embed'"),
    ],
)
def test_a_map_that_does_not_fit(qdq: Qdq, tiny: Path, renaming: str, message: str) -> None:
    outcome = qdq("compare", tiny, tiny, "--map", renaming)
    assert outcome.code == 2
    assert message in outcome.error


def test_npz_against_safetensors_in_the_other_order(qdq: Qdq, tmp_path: Path) -> None:
    x = sample((4, 6))
    np.savez(tmp_path / "a.npz", w=x)
    np.savez(tmp_path / "f.npz", w=np.asfortranarray(x))
    np.savez(tmp_path / "big.npz", w=x.astype(">f4"))
    one = write_safetensors(tmp_path / "x.safetensors", {"w": x})
    for name in ("a.npz", "big.npz"):
        assert stats(qdq("compare", one, tmp_path / name, "--format", "json"))["w"]["max_abs_error"] == 0
    assert "Fortran" in qdq("compare", one, tmp_path / "f.npz", "--format", "json").error


def test_histograms_are_those_of_the_run_that_wrote_the_candidate(qdq: Qdq, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--axis", 0, "--num-bits", 5, "--min-ndim", 0)
    made = qdq("run", LLAMA, "-o", out, *options, "--histograms", "--format", "json").report
    page = tmp_path / "r.html"
    found = qdq("compare", LLAMA, out, "--format", "json", "--report", page).report
    histograms = [
        {row["name"]: row["histograms"] for row in report["tensors"] if "histograms" in row} for report in (made, found)
    ]
    assert len(histograms[0]) > 10
    assert histograms[0] == histograms[1]
    assert page.read_text().count(':{"values":[') == len(histograms[0])
    assert '"step":' not in page.read_text(), "no grid is known"


def test_no_report_replaces_an_input(qdq: Qdq, tiny: Path) -> None:
    assert qdq("compare", tiny, tiny, "--report", tiny).code == 2


def test_tensors_of_one_name_are_paired_by_their_files(qdq: Qdq, tmp_path: Path) -> None:
    one = pipeline(tmp_path / "one")
    for other in (one, pipeline(tmp_path / "other", renamed=True)):
        outcome = qdq("compare", one, other, "--format", "json")
        assert outcome.code == 0
        assert [row["stats"]["exact"] for row in outcome.report["tensors"]] == [True] * 6
        assert outcome.report["summary"]["exact"] is True
        for row in outcome.report["tensors"]:
            assert Path(row["file"]).parent.name == Path(row["candidate"]["file"]).parent.name


def test_each_tensor_of_a_name_counts(qdq: Qdq, tmp_path: Path) -> None:
    one = pipeline(tmp_path / "one")
    other = pipeline(tmp_path / "other", text_encoder=np.full((8, 16), np.nan, np.float32))
    budget = tmp_path / "b.toml"
    budget.write_text("schema = 1\n[limits]\nmin_sqnr_db = 30\n")
    outcome = qdq("compare", one, other, "--budget", budget, "--format", "json")
    assert outcome.code == 1
    assert {(v["tensor"], v["file"]) for v in outcome.report["verdict"]["violations"]} == {
        ("w", f"{one}/text_encoder/model.safetensors")
    }
    for format_name in ("table", "markdown"):
        shown = qdq("compare", one, other, "--budget", budget, "--format", format_name).out
        assert "text_encoder/model.safetensors#w" in shown.replace("`", "").replace("\\", "")


def test_a_file_that_one_side_lacks_is_a_finding(qdq: Qdq, tmp_path: Path) -> None:
    one, other = pipeline(tmp_path / "one"), pipeline(tmp_path / "other")
    (other / "unet/model.safetensors").rename(other / "unet.safetensors")
    found = qdq("compare", one, other, "--format", "json")
    rows = [(row["name"], row["reason"]) for row in found.report["tensors"] if row["status"] == "failed"]
    assert rows == [
        ("w", "the candidate has 3 of this name, none of them in a file or folder of the same path"),
        ("w", "the reference has 3 of this name, none of them in a file or folder of the same path"),
    ]
    assert "exact" not in found.report["summary"]
    assert "2 tensors could not be compared: 'unet/model.safetensors#w', 'unet.safetensors#w'" in found.err


@pytest.mark.parametrize(
    ("x", "y", "is_exact"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [np.nan, np.nan], False),
        ([1.0, 2.0], [1.0, np.inf], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, np.nan], [1.0, 0.0], False),
        ([1.0, np.inf], [1.0, -np.inf], False),
        ([1.0, -np.inf], [1.0, -np.inf], True),
    ],
)
@pytest.mark.parametrize("dtypes", [("F32", "F32"), ("BF16", "F32"), ("F16", "F64"), ("BF16", "BF16")])
def test_exact_means_that_no_element_changed(
    qdq: Qdq, tmp_path: Path, x: list[float], y: list[float], is_exact: bool, dtypes: tuple[str, str]
) -> None:
    pair = []
    for name, values, dtype in zip("xy", (x, y), dtypes, strict=True):
        array = np.array(values, sample((1,), dtype).dtype)
        pair.append(write_safetensors(tmp_path / f"{name}.safetensors", {"w": array, "same": sample((2, 2))}))
    outcome = qdq("compare", *pair, "--format", "json")
    assert outcome.code == 0
    assert ("exact" in outcome.report["summary"]) is is_exact
    assert ("exact: no element changed" in qdq("compare", *pair).out) is is_exact


def test_nothing_is_exact_while_a_tensor_is_unmeasured(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    other = write_safetensors(tmp_path / "other.safetensors", {**TINY, "wide": np.arange(3)})
    outcome = qdq("compare", tiny, other, "--format", "json")
    assert outcome.code == 0
    assert "exact" not in outcome.report["summary"]
    assert "1 tensor could not be compared: 'wide'" in outcome.err
    assert "exact: no element changed" not in qdq("compare", tiny, other).out


def test_a_comparison_that_measures_nothing_is_an_error(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    other = write_safetensors(tmp_path / "other.safetensors", {"x": sample((2, 2))})
    outcome = qdq("compare", tiny, other)
    assert outcome.code == 2
    assert "nothing was measured: 8 tensors: the candidate has no tensor of this name" in outcome.error
    assert qdq("compare", tiny, tiny, "--include", "mask").code == 2


def test_a_prefix_that_one_side_has_is_offered(qdq: Qdq, tiny: Path, tmp_path: Path) -> None:
    other = write_safetensors(tmp_path / "o.safetensors", {f"model.text.{name}": each for name, each in TINY.items()})
    for one, two, offer in ((tiny, other, "*=model.text.*"), (other, tiny, "model.text.*=*")):
        assert f"; try --map '{offer}'" in qdq("compare", one, two).error
        assert failed(qdq("compare", one, two, "--map", offer, "--format", "json")) == {}
    odd = write_safetensors(tmp_path / "odd.safetensors", {"embed": TINY["embed"], "x": sample((2, 2))})
    assert "--map '" not in qdq("compare", tiny, odd).err


def test_no_prefix_of_many_is_offered() -> None:
    assert suggestion({"w"}, {f"{number}.w" for number in range(3)}) == "*=0.*"
    assert suggestion({"w"}, {f"{number}.w" for number in range(100)}) is None


def test_equal_tensors_are_counted_and_left_out_of_the_figures(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    made = qdq("run", model, "-o", tmp_path / "out", "--num-bits", 4, "--format", "json").report["summary"]
    outcome = qdq("compare", model, tmp_path / "out", "--format", "json")
    for metric in ("sqnr_db", "num_elements", "rmse", "cosine_similarity"):
        assert outcome.report["summary"][metric] == made[metric]
    assert "left out of the figures below" in qdq("compare", model, tmp_path / "out").out
    same = qdq("compare", model, model, "--format", "json").report["summary"]
    assert same["exact"]
    assert same["num_elements"] > made["num_elements"], "where all are equal, all are counted"


def test_a_budget_of_check_needs_no_further_options(qdq: Qdq, model: Path, tmp_path: Path) -> None:
    budget = tmp_path / "b.toml"
    settings = ("--num-bits", 4, "--exclude", "layer.0.*", "--min-ndim", 2)
    assert qdq("check", model, *settings, "--write-budget", budget).code == 0
    assert qdq("run", model, "-o", tmp_path / "out", *settings).code == 0
    outcome = qdq("compare", model, tmp_path / "out", "--budget", budget)
    assert outcome.code == 0, outcome.err
    assert "min_ndim = 2, exclude = 'layer.0.*'" in outcome.err
    refused = qdq("compare", model, tmp_path / "out", "--budget", budget, "--min-ndim", 1)
    assert refused.code == 2
    assert "min_ndim is 1 and not 2" in refused.error


@pytest.fixture
def reports(qdq: Qdq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reports of one model at 4 bits, with one tensor at 8 bits, and without another."""
    monkeypatch.chdir(tmp_path)
    tensors = {name: sample((8, 8), seed=seed) for seed, name in enumerate(("a", "b", "c"))}
    path = write_safetensors(tmp_path / "m.safetensors", tensors)
    (tmp_path / "r.toml").write_text("[[rules]]\nmatch = 'b'\nnum_bits = 8\n")
    assert qdq("stats", path, "-b", 4, "--report", "before.json").code == 0
    assert qdq("stats", path, "-b", 4, "--recipe", "r.toml", "--exclude", "c", "--report", "after.json").code == 0
    return tmp_path


def test_two_reports_side_by_side(qdq: Qdq, reports: Path) -> None:
    before, after = (json.loads((reports / f"{name}.json").read_text()) for name in ("before", "after"))
    outcome = qdq("compare", "before.json", "after.json", "--format", "json", "--report", "c.csv", "--report", "c.md")
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith("wrote c.csv and c.md in ")
    found = {row["name"]: row for row in outcome.report["tensors"]}
    was, now = ({row["name"]: row.get("stats") for row in side["tensors"]} for side in (before, after))
    assert found["a"]["change_db"] == 0
    assert found["b"]["change_db"] == now["b"]["sqnr_db"] - was["b"]["sqnr_db"] > 20
    assert (found["c"]["before"]["stats"], found["c"]["after"]) == (was["c"], None)
    assert outcome.report["summary"]["after"]["sqnr_db"] == after["summary"]["sqnr_db"]
    assert {entry["name"] for entry in outcome.report["settings"]} == {"exclude", "rules"}
    shown = qdq("compare", "before.json", "after.json").out
    assert [line.split()[0] for line in shown.splitlines()[2:4]] == ["b", "c"], "equal ones are counted"
    assert "tensors        2 in both, 1 of them with the same SQNR, 1 only before" in shown
    assert "exclude        none before, 'c' after" in shown
    cells = next(line for line in (reports / "c.csv").read_text().splitlines() if line.startswith("b,")).split(",")
    assert list(map(float, cells[2:4])) == [was["b"]["sqnr_db"], now["b"]["sqnr_db"]]
    assert "3 in both, 3 of them with the same SQNR" in qdq("compare", "before.json", "before.json").out


def test_reports_and_checkpoints_do_not_mix(qdq: Qdq, reports: Path) -> None:
    for arguments, words in (
        (("before.json", "m.safetensors"), "give two checkpoints, or two JSON reports"),
        (("before.json", "after.json", "--budget", "b.toml"), "--budget is for checkpoints"),
        (("before.json", "after.json", "--include", "a"), "--include is for checkpoints"),
        (("before.json", "after.json", "--format", "html"), "has no html form"),
        (("before.json", "after.json", "--report", "before.json"), "before.json"),
    ):
        outcome = qdq("compare", *arguments)
        assert outcome.code == 2
        assert words in outcome.error
    (reports / "x.json").write_text("{}")
    assert qdq("compare", "x.json", "after.json").code == 3
