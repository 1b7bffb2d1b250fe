"""The JSON form of a run, field by field as the contract gives it (INTERFACE section 5)."""

import json
from math import inf, nan, sqrt

import pytest

from qdqcli import __version__
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.result.result import ROW_STATS, RunResult, SkippedTensor, Source, TensorResult, row_to_json, to_json
from qdqcli.stats.metrics import METRICS
from tests.stats.samples import measured


def row(x: list[float], y: list[float], *, name: str = "w", num_bits: int = 8) -> TensorResult:
    return TensorResult(
        source=Source(name=name, file="in/a.safetensors", dtype="BF16", shape=(len(x), 1)),
        spec=QuantSpec(num_bits=num_bits, axis=0, compute_dtype=ComputeDType.FLOAT32),
        input_min=-2.0,
        input_max=3.0,
        num_slices=3,
        scale_bits=16,
        sums=measured(x, y),
    )


SKIPPED = SkippedTensor(
    source=Source(name="ids", file="in/b.safetensors", dtype="I64", shape=(2, 3)), num_elements=6, reason="not a float"
)
TWO = (row([1.0, -2.0, 3.0], [1.5, -2.0, 3.0], name="a"), row([4.0], [3.0], name="b", num_bits=4))


def run_of(*rows: TensorResult | SkippedTensor) -> RunResult:
    return RunResult(command="stats", inputs=("in",), settings={"num_bits": 8}, rows=rows)


def test_the_document() -> None:
    document = to_json(run_of(*TWO, SKIPPED))
    assert list(document) == ["schema_version", "tool", "command", "inputs", "settings", "notes", "summary", "tensors"]
    assert document["schema_version"] == 1
    assert document["tool"] == {"name": "qdq", "version": __version__}
    assert document["command"] == "stats"
    assert document["inputs"] == ["in"]
    assert document["settings"] == {"num_bits": 8}
    assert [entry["name"] for entry in document["tensors"]] == ["a", "b", "ids"]


def test_a_quantized_tensor() -> None:
    data = row_to_json(TWO[0])
    assert list(data) == ["name", "file", "dtype", "shape", "status", "spec", "range", "stats"]
    assert (data["name"], data["file"], data["dtype"], data["shape"]) == ("a", "in/a.safetensors", "BF16", [3, 1])
    assert data["status"] == "quantized"
    assert data["range"] == {"input_min": -2.0, "input_max": 3.0}
    assert list(data["stats"]) == [*METRICS, "bits_per_weight", "share"] == list(ROW_STATS)
    assert data["stats"]["max_abs_error"] == 0.5


def test_the_spec_is_under_the_names_of_the_op() -> None:
    assert row_to_json(TWO[0])["spec"] == {
        "signed_input": True,
        "num_bits": 8,
        "range_given": False,
        "round_mode": "HALF_TO_EVEN",
        "narrow_range": False,
        "axis": 0,
        "group_size": None,
        "compute_dtype": "float32",
        "estimator": "minmax",
        "percentile": None,
    }
    spec = QuantSpec(
        group_size=32, round_mode=RoundMode.HALF_UP, signed_input=False, narrow_range=True, range_given=True
    )
    data = row_to_json(TWO[0]._replace(spec=spec))["spec"]
    assert (data["axis"], data["group_size"], data["round_mode"]) == (-1, 32, "HALF_UP")
    assert (data["signed_input"], data["narrow_range"], data["range_given"]) == (False, True, True)


def test_a_skipped_tensor() -> None:
    assert row_to_json(SKIPPED) == {
        "name": "ids",
        "file": "in/b.safetensors",
        "dtype": "I64",
        "shape": [2, 3],
        "status": "skipped",
        "reason": "not a float",
    }


def test_the_summary_is_over_all_quantized_elements() -> None:
    summary = to_json(run_of(*TWO, SKIPPED))["summary"]
    assert list(summary) == ["num_tensors", "num_quantized", "num_skipped", *METRICS, "bits_per_weight"]
    assert (summary["num_tensors"], summary["num_quantized"], summary["num_skipped"]) == (3, 2, 1)
    assert summary["num_elements"] == 4
    assert summary["mse"] == (0.25 + 1.0) / 4  # of elements, not a mean of tensors
    assert summary["relative_l2"] == sqrt(1.25 / 30)
    assert (summary["input_min"], summary["input_max"]) == (-2.0, 4.0)


def test_bits_per_weight_count_one_scale_per_range() -> None:
    assert [entry.bits_per_weight for entry in TWO] == [8 + 3 * 16 / 3, 4 + 3 * 16 / 1]
    assert run_of(*TWO).summary["bits_per_weight"] == (8 * 3 + 4 * 1 + 2 * 3 * 16) / 4


def test_without_elements_there_are_no_bits_per_weight() -> None:
    empty = row([], [])
    assert empty.bits_per_weight is None
    assert run_of(empty).summary["bits_per_weight"] is None
    assert run_of().summary["bits_per_weight"] is None


def test_an_exact_tensor_and_an_exact_run_are_marked() -> None:
    exact = row([1.0, 2.0], [1.0, 2.0])
    assert row_to_json(exact)["stats"]["exact"] is True
    assert row_to_json(exact)["stats"]["sqnr_db"] is None
    assert to_json(run_of(exact))["summary"]["exact"] is True
    assert "exact" not in row_to_json(TWO[0])["stats"]
    assert "exact" not in to_json(run_of(exact, *TWO))["summary"]
    assert "exact" not in to_json(run_of())["summary"]


@pytest.mark.parametrize(("x", "y"), [([nan], [nan]), ([1.0], [inf]), ([0.0], [1.0]), ([1e300], [1e250]), ([], [])])
def test_a_statistic_that_is_not_finite_is_null(x: list[float], y: list[float]) -> None:
    entry = row(x, y)
    json.dumps([row_to_json(entry)["stats"], to_json(run_of(entry))["summary"]], allow_nan=False)
    assert row_to_json(entry)["stats"]["sqnr_db"] is None


@pytest.mark.parametrize("bound", ["input_min", "input_max"])
@pytest.mark.parametrize("value", [inf, -inf])
def test_a_range_that_is_not_finite_is_null(bound: str, value: float) -> None:
    entry = TWO[0]._replace(input_min=value) if bound == "input_min" else TWO[0]._replace(input_max=value)
    assert row_to_json(entry)["range"][bound] is None


def test_a_range_without_numbers_is_null() -> None:
    assert row_to_json(TWO[0]._replace(input_min=None, input_max=None))["range"] == {
        "input_min": None,
        "input_max": None,
    }


def test_channels_are_there_where_they_were_asked_for() -> None:
    data = row_to_json(TWO[0]._replace(channels={"sqnr_db": (30.0, None, 31.5)}))
    assert data["channels"] == {"sqnr_db": [30.0, None, 31.5]}


def test_the_order_of_rows_does_not_change_the_summary() -> None:
    rows = [row([0.1 * i, 1e8], [0.1, 1e8 + i], name=str(i)) for i in range(9)]
    assert run_of(*rows).summary == run_of(*reversed(rows)).summary
