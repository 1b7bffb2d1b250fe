"""`--scheme`, `--indivisible` and what stands beside them: bits and granularity by one name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.errors import UsageError
from qdqcli.recipe.scheme import settings_of_scheme
from tests.conftest import Outcome, Qdq
from tests.run.checkpoints import sample, write_safetensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = {"even": sample((4, 64)), "odd": sample((3, 28)), "conv": sample((2, 3, 5)), "bias": sample((28,))}
    return write_safetensors(tmp_path / "m.safetensors", tensors)


def specs(outcome: Outcome) -> dict[str, tuple[Any, ...]]:
    assert outcome.code == 0, outcome.err
    keys = ("num_bits", "signed_input", "axis", "group_size")
    rows = outcome.report["tensors"]
    return {row["name"]: tuple(row["spec"][key] for key in keys) for row in rows if row["status"] == "quantized"}


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("int8-channel", ("--num-bits", 8, "--axis", "channel")),
        ("int4-g4", ("--num-bits", 4, "--group-size", 4)),
        ("uint8-tensor", ("--unsigned-input",)),
        ("UINT3", ("--num-bits", 3, "--unsigned-input")),
    ],
)
def test_a_scheme_gives_what_its_options_give(
    qdq: Qdq, source: Path, tmp_path: Path, scheme: str, options: tuple[object, ...]
) -> None:
    common = ("--exclude", "conv", "--format", "json")
    short, long = qdq("stats", source, "-s", scheme, *common), qdq("stats", source, *options, *common)
    assert short.out == long.out
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'schema = 1\n[defaults]\nscheme = "{scheme.lower()}"\n')
    assert specs(qdq("stats", source, "--recipe", recipe, *common)) == specs(long)
    recipe.write_text(f'schema = 1\n[[rules]]\nmatch = "*"\nscheme = "{scheme.lower()}"\n')
    assert specs(qdq("stats", source, "--recipe", recipe, *common)) == specs(long)


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        (("-s", "int4-g4", "-b", 6), (6, True, -1, 4)),
        (("-s", "int4-g4", "--axis", 0), (4, True, 0, None)),
        (("-s", "int8-channel", "-g", 2), (8, True, -1, 2)),
        (("-s", "uint4-g4", "--signed-input"), (4, True, -1, 4)),
    ],
)
def test_explicit_options_override_a_scheme(
    qdq: Qdq, source: Path, options: tuple[object, ...], spec: tuple[Any, ...]
) -> None:
    found = specs(qdq("stats", source, "--include", "even", *options, "--format", "json"))
    assert found == {"even": spec}


def test_a_scheme_overrides_defaults_and_gives_way_to_rules(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'schema = 1\n[defaults]\nscheme = "int8-g4"\nexclude = "conv"\n'
        '[[rules]]\nmatch = "odd"\nscheme = "int6-tensor"\n'
    )
    outcome = qdq("stats", source, "--recipe", recipe, "-s", "int3", "--format", "json")
    assert specs(outcome) == {"even": (3, True, -1, 4), "odd": (6, True, -1, None)}
    decided = {row["name"]: row.get("decided_by") for row in outcome.report["tensors"]}
    assert decided["even"] == {"num_bits": "--scheme", "signed_input": "--scheme", "axis": "[defaults]",
                               "group_size": "[defaults]"}  # fmt: skip


def test_keys_beside_a_scheme_override_it(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "even"\naxis = 0\nscheme = "int8-g4"\nnum_bits = 5\n')
    outcome = qdq("stats", source, "--recipe", recipe, "--format", "json")
    assert specs(outcome)["even"] == (5, True, 0, None)


@pytest.mark.parametrize("name", ["int", "int0", "int63", "int4-g0", "int4-row", "nf4", "W4A16", "fp8", ""])
def test_what_is_no_scheme(qdq: Qdq, source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not a scheme"):
        settings_of_scheme(name)
    outcome = qdq("stats", source, "--scheme", name)
    assert outcome.code == 2
    assert "not FP8, NF4, MX or GGUF" in outcome.error
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'schema = 1\n[defaults]\nscheme = "{name}"\n')
    outcome = qdq("stats", source, "--recipe", recipe)
    assert outcome.code == 2
    assert "r.toml:3: [defaults]: scheme" in outcome.error
    assert "int4-g128" in outcome.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--num-bits", "int4"), "--scheme int4 takes it"),
        (("--num-bits", "four"), "'four' is not a number of bits"),
        (("--recipe", "linear-only"), "it is a preset: --preset linear-only"),
        (("--recipe", "int4-g128"), "it is a scheme: --scheme int4-g128"),
        (("--preset", "weights-only"), "it is now --preset linear-only"),
        (("--preset", "int4-group128"), "it is now --scheme int4-g128"),
        (("--indivisible", "skip"), "--indivisible needs --group-size"),
        (("-g", 4, "--ragged-groups", "--indivisible", "skip"), "--ragged-groups excludes --indivisible"),
        (("-g", 8), "--ragged-groups shortens the last group of each row, --indivisible skip leaves them in float"),
    ],
    ids=str,
)
def test_where_people_slip(
    qdq: Qdq, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = qdq("stats", source, *arguments)
    assert outcome.code == 2
    assert words in outcome.error


def test_tensors_that_groups_do_not_divide_stay_in_float(qdq: Qdq, source: Path) -> None:
    outcome = qdq("stats", source, "-s", "int4-g8", "--indivisible", "skip", "--min-ndim", 0, "--format", "json")
    assert specs(outcome) == {"even": (4, True, -1, 8)}
    reasons = {row["name"]: row["reason"] for row in outcome.report["tensors"] if row["status"] == "skipped"}
    assert reasons == dict.fromkeys(("odd", "conv", "bias"), "group_size 8 does not divide the last dimension")
    assert outcome.report["settings"]["indivisible"] == "skip"


def test_tensors_that_groups_do_not_divide_have_one_range_per_channel(qdq: Qdq, source: Path) -> None:
    options = ("--min-ndim", 0, "--format", "json")
    outcome = qdq("stats", source, "-s", "int4-g8", "--indivisible", "channel", *options)
    assert specs(outcome) == {
        "even": (4, True, -1, 8), "odd": (4, True, 0, None), "conv": (4, True, 0, None), "bias": (4, True, -1, None)
    }  # fmt: skip
    by_channel = {row["name"]: row for row in qdq("stats", source, "-s", "int4-channel", *options).report["tensors"]}
    by_group = {row["name"]: row for row in outcome.report["tensors"]}
    for row in (by_group["odd"], by_channel["odd"]):
        del row["stats"]["share"]  # of another whole
    assert by_group["odd"] == by_channel["odd"]


def test_a_rule_says_what_becomes_of_indivisible_tensors(qdq: Qdq, source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'schema = 1\n[defaults]\nscheme = "int4-g8"\nindivisible = "skip"\n'
        '[[rules]]\nmatch = "odd"\nindivisible = "channel"\n'
    )
    outcome = qdq("stats", source, "--recipe", recipe, "--format", "json")
    assert specs(outcome) == {"even": (4, True, -1, 8), "odd": (4, True, 0, None)}
    row = next(row for row in outcome.report["tensors"] if row["name"] == "conv")
    assert row["decided_by"] == {"indivisible": "[defaults]"}
    recipe.write_text('schema = 1\n[[rules]]\nmatch = "odd"\nindivisible = "channel"\n')
    assert "where no group_size holds" in qdq("stats", source, "--recipe", recipe).error


def test_indivisible_tensors_in_fortran_order(qdq: Qdq, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(sample((3, 28))))
    np.save(tmp_path / "c.npy", sample((3, 28)))
    for name in ("x", "c"):
        options = ("-s", "int4-g8", "--indivisible", "channel", "--format", "json")
        assert specs(qdq("stats", tmp_path / f"{name}.npy", *options)) == {name: (4, True, 0, None)}
