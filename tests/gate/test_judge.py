"""What passes and what does not, tensor by tensor and over all of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdqcli.errors import UsageError
from qdqcli.gate.aggregate import AGGREGATES, aggregate
from qdqcli.gate.judge import judge
from qdqcli.report.verdict import headline, sentence, waived_line
from qdqcli.result.packing import Packing
from qdqcli.result.result import RunResult
from qdqcli.result.verdict import Severity, Verdict
from qdqcli.tensors.packed.storage import CodeGrid, Storage
from tests.gate.samples import TODAY, budget, verdict
from tests.growth import growth
from tests.report.samples import (
    BAD,
    EMPTY,
    EXACT,
    GOOD,
    NONFINITE,
    NOTES,
    SKIPPED,
    UNMEASURED,
    quantized,
    run_of,
    skipped,
)

# SQNR: GOOD 71.5 dB, BAD 17.5 dB


def named(result: Verdict) -> list[tuple[str | None, str]]:
    return [(violation.tensor, violation.metric) for violation in result.violations]


def test_a_limit_holds_for_every_tensor_and_is_kept_at_equality(tmp_path: Path) -> None:
    assert GOOD.stats["sqnr_db"] == pytest.approx(71.46, abs=0.01)
    result = verdict(tmp_path, run_of(GOOD, BAD), "[limits]\nmin_sqnr_db = 30\nmax_abs_error = 0.5")
    assert not result.passed
    assert named(result) == [("model.bad.weight", "sqnr_db")]
    (only,) = result.violations
    assert (only.limit, only.actual, only.file) == (30, BAD.stats["sqnr_db"], "m.safetensors")
    assert only.excess_db == pytest.approx(30 - BAD.stats["sqnr_db"])


def test_a_later_table_overrides_the_limits_that_it_names(tmp_path: Path) -> None:
    text = """
    [limits]
    min_sqnr_db = 90
    max_rmse = 0.0001
    [[tensors]]
    match = "model.*"
    min_sqnr_db = 10
    [[tensors]]
    match = ["*good*", "re:nothing|model[.]good.*"]
    min_sqnr_db = 80
    severity = "warn"
    """
    result = judge(run_of(GOOD, BAD), budget(tmp_path, text), None, TODAY, allow_unmatched=True)[0]
    found = {(v.tensor, v.metric): v.severity for v in result.violations}
    assert found == {
        ("model.good.weight", "sqnr_db"): Severity.WARN,
        ("model.good.weight", "rmse"): Severity.ERROR,
        ("model.bad.weight", "rmse"): Severity.ERROR,
    }


def test_a_limit_can_be_lifted_and_a_table_without_limits_sets_the_severity_of_all(tmp_path: Path) -> None:
    lifted = '[limits]\nmin_sqnr_db = 60\n[[tensors]]\nmatch = "*bad*"\nmin_sqnr_db = "none"'
    assert verdict(tmp_path, run_of(GOOD, BAD), lifted).violations == []
    warned = verdict(tmp_path, run_of(BAD), '[limits]\nmin_sqnr_db = 90\n[[tensors]]\nmatch = "*"\nseverity = "warn"')
    assert warned.passed
    assert [v.severity for v in warned.violations] == [Severity.WARN]


def test_the_worst_violation_stands_first_and_errors_before_warnings(tmp_path: Path) -> None:
    text = '[limits]\nmin_sqnr_db = 90\n[[tensors]]\nmatch = "*bad*"\nmin_sqnr_db = 99\nseverity = "warn"'
    other = quantized("other", [1.0, 2.0], [1.25, 2.0])
    result = verdict(tmp_path, run_of(GOOD, BAD, other), text)
    assert [v.tensor for v in result.violations] == ["other", "model.good.weight", "model.bad.weight"]


def test_what_lost_nothing_or_is_empty_keeps_every_limit(tmp_path: Path) -> None:
    assert verdict(tmp_path, run_of(EXACT, EMPTY), "[limits]\nmin_sqnr_db = 200\nmax_abs_error = 0").passed
    for place in ("summary", "summary.worst", "summary.weighted_mean"):
        assert verdict(tmp_path, run_of(EXACT), f"[{place}]\nmin_sqnr_db = 200").passed


def test_elements_that_are_not_finite_violate_every_budget_unless_allowed(tmp_path: Path) -> None:
    result = verdict(tmp_path, run_of(GOOD, NONFINITE), "")
    assert set(named(result)) == {("model.inf.weight", "num_nonfinite"), ("model.inf.weight", "num_nonfinite_output")}
    assert verdict(tmp_path, run_of(NONFINITE), "allow_nonfinite = true").passed
    here = '[[tensors]]\nmatch = "*.inf.*"\nallow_nonfinite = true'
    assert verdict(tmp_path, run_of(GOOD, NONFINITE), here).passed
    assert not verdict(tmp_path, run_of(NONFINITE, UNMEASURED), here).passed


def test_a_tensor_without_a_finite_element_is_one_violation(tmp_path: Path) -> None:
    result = verdict(tmp_path, run_of(UNMEASURED), "[limits]\nmin_sqnr_db = 10\nmax_rmse = 1")
    assert named(result) == [("model.nan.weight", "num_nonfinite")]


def test_a_metric_without_a_number_keeps_no_limit(tmp_path: Path) -> None:
    lost_all = quantized("x", [0.0, 0.0], [1.0, 1.0])
    assert lost_all.stats["sqnr_db"] is None
    (only,) = verdict(tmp_path, run_of(lost_all), "[limits]\nmin_sqnr_db = -100").violations
    assert (only.metric, only.actual, only.excess_db) == ("sqnr_db", None, None)


def test_limits_on_the_whole_run_and_on_aggregates(tmp_path: Path) -> None:
    run = run_of(GOOD, BAD)
    for place in ("summary", "summary.worst", "summary.p05", "summary.median"):
        (only,) = verdict(tmp_path, run, f"[{place}]\nmin_sqnr_db = 60").violations
        assert (only.tensor, only.origin) == (None, place)
    assert verdict(tmp_path, run, "[summary.weighted_mean]\nmin_sqnr_db = 44").passed
    assert not verdict(tmp_path, run, "[summary.weighted_mean]\nmin_sqnr_db = 45").passed


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("limit", ["min_sqnr_db = -100", "max_relative_l2 = 100"])
def test_a_tensor_that_lost_all_is_the_worst_in_every_aggregate(tmp_path: Path, name: str, limit: str) -> None:
    lost_all = quantized("x", [0.0, 0.0], [1.0, 1.0])
    text = f"[summary.{name}]\n{limit}"
    (only,) = verdict(tmp_path, run_of(lost_all, EXACT), text).violations
    assert (only.actual, only.origin) == (None, f"summary.{name}")
    assert verdict(tmp_path, run_of(EXACT), text).passed


def test_aggregates_are_what_a_reader_computes_by_hand() -> None:
    rows = [quantized(f"t{i}", [1.0] * (1 + i), [1.0 + 2.0**-i] * (1 + i)) for i in range(40)]
    errors = sorted((2.0**-i for i in range(40)), reverse=True)
    assert aggregate("worst", "max_abs_error", rows) == errors[0]
    assert aggregate("p05", "max_abs_error", rows) == errors[1], "two of forty are as bad or worse"
    assert aggregate("median", "max_abs_error", rows) == errors[19]
    mean = sum(2.0**-i * (1 + i) for i in range(40)) / sum(range(1, 41))
    assert aggregate("weighted_mean", "max_abs_error", rows) == pytest.approx(mean)
    assert aggregate("worst", "sqnr_db", rows) == min(row.stats["sqnr_db"] for row in rows)
    assert aggregate("median", "sqnr_db", []) is None


WAIVER = '[limits]\nmin_sqnr_db = 90\n[[waivers]]\nmatch = "*bad*"\nreason = "at run time"\nuntil = '


def test_a_waived_violation_is_kept_with_its_reason_and_does_not_count(tmp_path: Path) -> None:
    result = verdict(tmp_path, run_of(BAD), WAIVER + "2026-06-01")
    assert result.passed
    assert [(v.tensor, v.waiver) for v in result.waived] == [("model.bad.weight", "at run time")]
    assert waived_line(result.waived[0], str).startswith("model.bad.weight: SQNR")
    assert waived_line(result.waived[0], str).endswith('(waived: "at run time")')


def test_an_expired_waiver_is_a_violation_itself(tmp_path: Path) -> None:
    result = verdict(tmp_path, run_of(BAD), WAIVER + "2026-05-31")
    assert set(named(result)) == {("model.bad.weight", "sqnr_db"), (None, "waiver")}
    expired = next(violation for violation in result.violations if violation.metric == "waiver")
    assert sentence(expired, str) == '*bad*: waiver "at run time" expired on 2026-05-31; fix the tensors or renew it'
    assert expired.line == 4
    assert not verdict(tmp_path, run_of(BAD), WAIVER.replace("90", "1") + "2026-05-31").passed


def test_a_tensor_that_could_not_be_measured_does_not_pass(tmp_path: Path) -> None:
    failed = skipped("x", "shapes differ")._replace(is_failure=True)
    assert named(verdict(tmp_path, run_of(GOOD, failed, SKIPPED), "")) == [("x", "failed")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[tensors]]\nmatch = "model.godo.*"\nmin_sqnr_db = 1', "matches none of 2 tensors.*model.good.weight"),
        ('[[tensors]]\nmatch = "ids"\nmin_sqnr_db = 1', "not quantized"),
        ('[[waivers]]\nmatch = "nothing"\nreason = "r"\nuntil = 2027-01-31', "waivers.*matches none"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    run = run_of(GOOD, BAD, SKIPPED)
    with pytest.raises(UsageError, match=message):
        judge(run, budget(tmp_path, text), None, TODAY)
    text += "\n[summary]\nmin_sqnr_db = 1"
    _, warnings = judge(run, budget(tmp_path, text), None, TODAY, allow_unmatched=True)
    assert len(warnings) == 1


def test_a_budget_with_a_table_for_each_of_many_tensors_is_judged_at_once(tmp_path: Path) -> None:
    def judged(count: int) -> None:
        rows = [GOOD._replace(source=GOOD.source._replace(name=f"layers.{i}.weight")) for i in range(count)]
        tables = [f'[[tensors]]\nmatch = "layers.{i}.weight"\nmin_sqnr_db = {i}' for i in range(count)]
        result = verdict(tmp_path, run_of(*rows), "\n".join(tables))
        assert len(result.violations) == count - 72

    assert growth(judged, 200, 2000) < 40, "pattern by pattern it is a hundred times"


def test_limits_and_waivers_tell_tensors_of_one_name_apart_by_their_files(tmp_path: Path) -> None:
    rows = [BAD._replace(source=BAD.source._replace(name="w", file=f"pipe/{folder}/model.safetensors"))
            for folder in ("text_encoder", "text_encoder_2")]  # fmt: skip
    run = replace(run_of(*rows), inputs=["pipe"])
    text = '[limits]\nmin_sqnr_db = 90\n[[tensors]]\nmatch = "text_encoder#w"\nmin_sqnr_db = 10'
    assert [v.file for v in verdict(tmp_path, run, text).violations] == ["pipe/text_encoder_2/model.safetensors"]
    text = '[limits]\nmin_sqnr_db = 90\n[[waivers]]\nmatch = "*_2#w"\nreason = "later"\nuntil = 2027-01-01'
    result = verdict(tmp_path, run, text)
    assert [v.file for v in result.violations] == ["pipe/text_encoder/model.safetensors"]
    assert [v.file for v in result.waived] == ["pipe/text_encoder_2/model.safetensors"]


def test_every_violation_knows_its_file_and_line(tmp_path: Path) -> None:
    text = (
        "[limits]\nmin_sqnr_db = 90\n[[tensors]]\nmatch = '*bad*'\n\nmin_sqnr_db = 91\n"
        "[summary]\np05 = {min_sqnr_db = 80}\n[structure]\nmax_bits_per_weight = 1\nforbid = ['*good*',\n'*bad*']\n"
        "[[waivers]]\nmatch = '*'\nreason = 'r'\nuntil = 2026-01-01\n"
    )
    result = verdict(tmp_path, run_of(GOOD, BAD, NONFINITE), text)
    assert {violation.budget for violation in result.violations} == {str(tmp_path / "budget.toml")}
    lines = {(v.tensor or v.limit, v.metric): v.line for v in result.violations}
    assert lines["model.good.weight", "sqnr_db"] == 3
    assert lines["model.bad.weight", "sqnr_db"] == 7
    assert lines[80, "sqnr_db"] == 9
    assert lines[1, "max_bits_per_weight"] == 11
    assert (lines["*good*", "forbid"], lines["*bad*", "forbid"]) == (12, 13)
    assert lines["2026-01-01", "waiver"] == 14
    assert lines["model.inf.weight", "num_nonfinite"] == 1, "no line says so"


def test_a_budget_that_is_kept_names_the_tensor_nearest_to_its_limit(tmp_path: Path) -> None:
    run = run_of(GOOD, BAD, EXACT)
    kept = verdict(tmp_path, run, "[limits]\nmin_sqnr_db = 10\n[summary]\nmin_sqnr_db = 17.5")
    assert kept.nearest is not None, "a tensor, though the summary is nearer"
    assert (kept.nearest.tensor, kept.nearest.metric, kept.nearest.limit) == ("model.bad.weight", "sqnr_db", 10)
    assert kept.nearest.margin_db == pytest.approx(BAD.stats["sqnr_db"] - 10)
    line = headline(replace(run, verdict=kept), str)
    assert line == "budget kept: 3 tensors; nearest its limit: model.bad.weight, SQNR 17.48 dB, 7.48 dB above"
    rmse = verdict(tmp_path, run, "[limits]\nmax_rmse = 1")
    assert "model.bad.weight, RMSE 0.2887, 10.8 dB below" in headline(replace(run, verdict=rmse), str)
    whole = verdict(tmp_path, run, "[summary.median]\nmax_rmse = 1")
    assert "median of the tensors, RMSE" in headline(replace(run, verdict=whole), str)
    assert verdict(tmp_path, run_of(EXACT), "[limits]\nmin_sqnr_db = 10").nearest is None


def test_a_gate_that_measured_nothing_is_an_error(tmp_path: Path) -> None:
    for run in (run_of(), run_of(SKIPPED), run_of(EMPTY), run_of(skipped("x", "shapes")._replace(is_failure=True))):
        with pytest.raises(UsageError, match=r"m\.safetensors: nothing was measured"):
            verdict(tmp_path, run, "[limits]\nmin_sqnr_db = 1")


FLOAT = GOOD._replace(spec=None, source=GOOD.source._replace(shape=(1, 3)))
PACKED = FLOAT._replace(packing=Packing(Storage("GPTQ", CodeGrid(4, (1, 3)), 2)))
DECODED = PACKED._replace(packing=PACKED.packing and PACKED.packing._replace(is_candidate=False))
LOST = skipped("w", "lost", 1)._replace(is_failure=True, source=FLOAT.source._replace(name="w", shape=(1, 1)))

STRUCTURES = [
    ("min_quantized = 0.75", run_of(GOOD, skipped("fp8", "F8", 1)._replace(is_selected=True)), None),
    ("min_quantized = 0.76", run_of(GOOD, skipped("fp8", "F8", 1)._replace(is_selected=True)), "75.00% of them"),
    ("min_quantized = 0.9", run_of(GOOD, skipped("norm", "fewer", 100)), None),
    ("min_quantized = 0.9", run_of(GOOD, skipped("w", "shapes", 1)._replace(is_failure=True)), "75.00% of them"),
    ("min_packed = 0.75", run_of(PACKED, LOST, skipped("bias", "lost")._replace(is_failure=True)), None),
    ("min_packed = 0.76", run_of(PACKED, LOST), "75.00% of their elements are packed"),
    ("min_packed = 0.51", run_of(PACKED, FLOAT), "50.00% of their elements"),
    ("min_packed = 0.1", run_of(DECODED), "0 of their elements are packed"),
    ("max_bits_per_weight = 99", run_of(DECODED), "- (no number) is above"),
    ("max_bits_per_weight = 29.4", run_of(GOOD), None),
    ("max_bits_per_weight = 5.3", run_of(PACKED, FLOAT), "5.333 is above"),
    ("max_bits_per_weight = 5.4", run_of(PACKED, FLOAT), None),
    ("max_bits_per_weight = 29.3", run_of(GOOD), "29.33 is above the limit 29.30"),
    ("max_bits_per_weight = 99", run_of(GOOD._replace(spec=None)), "- (no number) is above"),
    ("forbid = '*bad*'", run_of(GOOD, skipped("model.bad.weight", "excluded")), None),
    ("forbid = '*bad*'", run_of(GOOD, BAD), "must not be quantized, and 'model.bad.weight' would be"),
    ("forbid = ['*exact*']", run_of(EXACT._replace(spec=None)), None),
    ("forbid = ['*exact*']", run_of(EXACT._replace(spec=None, packing=PACKED.packing)), "must not be quantized"),
    ("forbid = ['*bad*']", run_of(BAD._replace(spec=None)), "must not be quantized"),
]


@pytest.mark.parametrize(("rule", "run", "words"), STRUCTURES)
def test_the_structure(tmp_path: Path, rule: str, run: RunResult, words: str | None) -> None:
    for severity in Severity:
        found = verdict(tmp_path, run, f"[structure]\nseverity = '{severity}'\n{rule}").violations
        found = [violation for violation in found if violation.metric != "failed"]
        assert [violation.severity for violation in found] == ([] if words is None else [severity])
        assert all(words in sentence(violation, str) for violation in found if words)


def test_a_share_of_packed_weights_is_for_comparisons_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"budget.toml:3: min_packed is for 'qdq compare' alone"):
        verdict(tmp_path, run_of(GOOD), "[structure]\nmin_packed = 1")


def test_incomplete_checkpoints_and_failed_inputs_are_violations_and_other_notes_are_none(tmp_path: Path) -> None:
    result = verdict(tmp_path, replace(run_of(GOOD), notes=NOTES), "[limits]\nmin_sqnr_db = 1")
    found = {violation.metric: violation for violation in result.violations}
    assert {metric: violation.file for metric, violation in found.items()} == {
        "incomplete": "m/incomplete.safetensors",
        "failed": "m/failed.safetensors",
    }
    start = "m/incomplete.safetensors: shards of the same checkpoint are missing"
    assert sentence(found["incomplete"], str).startswith(f"{start}: 'w', 'v'")


@pytest.mark.parametrize(
    "text",
    [
        "[limits]\nmin_sqnr_db = 90\n[[tensors]]\nmatch = '*'\nmin_sqnr_db = 'none'",
        "[[tensors]]\nmatch = 'other.*'\nmin_sqnr_db = 90",
    ],
)
def test_limits_that_hold_for_nothing_are_an_error(tmp_path: Path, text: str) -> None:
    def judged(text: str, run: RunResult) -> Verdict:
        return judge(run, budget(tmp_path, text), None, TODAY, allow_unmatched=True)[0]

    with pytest.raises(UsageError, match=r"budget\.toml: none of its limits holds"):
        judged(text, run_of(GOOD, BAD))
    assert not judged(text, run_of(GOOD, NONFINITE)).passed
    assert judged(f"{text}\n[summary]\nmin_sqnr_db = 10", run_of(GOOD, BAD)).passed
    other = GOOD._replace(source=GOOD.source._replace(name="other.a"))
    assert judged(f"{text}\n[[tensors]]\nmatch = 'other.a'\nmin_sqnr_db = 10", run_of(BAD, other)).passed


def test_settings_written_by_hand_may_have_any_spelling(tmp_path: Path) -> None:
    text = "axis = -1\nround_mode = 'half_up'\ninclude = ['b', 'a']\nestimator = 'percentile'\nranges = './x/r.json'"
    settings = {"axis": "none", "round_mode": "HALF_UP", "include": ["a", "b"], "estimator": "percentile"}
    run = replace(run_of(GOOD), settings=settings | {"percentile": 99.99, "ranges": "y/r.json"})
    assert verdict(tmp_path, run, f"[limits]\nmin_sqnr_db = 1\n[settings]\n{text}").passed


def test_other_settings_are_one_error_that_names_the_difference(tmp_path: Path) -> None:
    text = "[limits]\nmin_sqnr_db = 200\n[settings]\nnum_bits = 4\naxis = 'none'\nexclude = ['a']\n"
    run = run_of(GOOD, BAD)
    same = replace(run, settings={"num_bits": 4, "axis": -1, "exclude": ["a"], "other": 1})
    assert len(verdict(tmp_path, same, text).violations) == 2
    other = replace(run, settings={"num_bits": 8, "axis": "last", "exclude": []})
    with pytest.raises(UsageError) as caught:
        verdict(tmp_path, other, text)
    start = f"{tmp_path / 'budget.toml'}:4: the budget is for a run with other settings: "
    difference = "num_bits is 8 and not 4; axis is last and not none; exclude is none and not 'a'; "
    assert str(caught.value).startswith(start + difference)
