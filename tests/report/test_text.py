"""The table for readers: at several widths, in ASCII, with and without colour."""

from dataclasses import replace
from re import sub

import pytest
from rich.cells import cell_len

from qdqcli.op.spec import QuantSpec
from qdqcli.report.formatter import formatter
from qdqcli.report.number import metric_title
from qdqcli.report.options import ReportOptions
from qdqcli.report.ranking import SORTS, check_sort
from qdqcli.result.result import RunResult, with_shares
from qdqcli.tensors.note import NoteKind
from tests.report.samples import (
    BAD,
    DEGENERATE,
    EVERY_KIND,
    EXACT,
    GOOD,
    HOSTILE,
    NONFINITE,
    NOTES,
    SKIPPED,
    hostile_run,
    quantized,
    run_of,
    skipped,
)


def render(run: RunResult, **options: object) -> str:
    return "".join(formatter("table")(run, ReportOptions(**options)))  # type: ignore[arg-type]


def table_lines(text: str) -> list[str]:
    """Title and rows, without the rule."""
    head, _, *rest = text.split("\n\n")[0].split("\n")
    return [head, *rest]


def layers(count: int) -> RunResult:
    """Names as language models have them; the first is the worst."""
    names = [f"model.layers.{i}.{part}.weight" for i in range(count) for part in ("self_attn.q_proj", "mlp.down_proj")]
    rows = [quantized(name, [1.0, 2.0, 3.0], [1.0, 2.0, 3.5 - i / 100]) for i, name in enumerate(names)]
    return run_of(*(row._replace(source=row.source._replace(shape=(1536, 8960))) for row in rows))


def test_a_report_reads_like_this() -> None:
    report = render(run_of(*with_shares([GOOD, SKIPPED, BAD, EXACT])), ascii_only=True)
    assert report == (
        "tensor              shape  dtype  bits         SQNR dB    share  max |e|      RMSE  clipped  zeroed\n"
        "---------------------------------------------------------------------------------------------------\n"
        "model.bad.weight      3x1  BF16   int4 g1        17.48  >99.99%    0.500     0.289        0       0\n"
        "model.good.weight     3x1  BF16   int8 axis 0    71.46   <0.01%  0.00100  0.000577        0       0\n"
        "model.exact.weight    2x1  BF16   int8 axis 0    exact        0        0         0        0       0\n"
        "\n"
        "quantized     3 tensors\n"
        "skipped       1 tensor: I64 is not a floating-point dtype\n"
        "elements      8\n"
        "bits/weight   30.500\n"
        "SQNR          21.21 dB\n"
        "RMSE          0.1768\n"
        "max |e|       0.5000\n"
        "lowest SQNR   model.bad.weight, 17.48 dB\n"
        "largest share model.bad.weight, >99.99% of the squared error\n"
    )


def test_symbols_are_used_where_the_encoding_has_them() -> None:
    assert "3\N{MULTIPLICATION SIGN}1" in render(run_of(GOOD))
    assert "\n────" in render(run_of(GOOD))


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_lines_fit_the_width(width: int, ascii_only: bool) -> None:
    for run in (EVERY_KIND, layers(12), hostile_run()):
        lines = render(run, width=width, ascii_only=ascii_only).splitlines()
        assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100])
def test_names_stay_apart_when_they_are_cut(width: int) -> None:
    rows = table_lines(render(layers(30), width=width))[1:61]
    assert len({row.split("  ")[0] for row in rows}) == 60


def test_names_that_differ_where_they_must_be_cut_go_on_in_further_lines() -> None:
    names = [f"{'a' * 40}{i}{'b' * 40}" for i in range(3)]
    text = render(run_of(*(quantized(name, [1.0], [1.5]) for name in names)), width=60)
    lines = table_lines(text)
    assert max(map(cell_len, lines)) <= 60
    assert all(f"{i}bbb" in text.replace("\n", "") for i in range(3))


def test_a_narrow_table_says_what_it_says_once_and_what_it_left_out() -> None:
    text = render(layers(3), width=60)
    assert "in every row: dtype BF16, bits int8 axis 0, clipped 0" in text
    assert "every name begins with model.layers. and ends with .weight" in text
    assert "no room for: RMSE" not in render(layers(3), width=80)
    assert "no room for: " in render(layers(3), width=40)


def test_a_wide_table_leaves_nothing_out() -> None:
    for width in (None, 200):
        text = render(layers(3), width=width)
        assert "in every row" not in text
        assert "no room" not in text
        assert "model.layers.0.self_attn.q_proj.weight" in table_lines(text)[1]


@pytest.mark.parametrize("sort", SORTS)
def test_the_metric_that_is_sorted_by_is_shown_at_any_width(sort: str) -> None:
    key = check_sort(sort)
    title = "tensor" if key == "name" else metric_title(key)
    for width in (None, 100, 40):
        assert title in table_lines(render(layers(3), sort=key, width=width))[0]


def test_top_cuts_rows_and_says_so() -> None:
    text = render(layers(3), top=2)
    assert len(table_lines(text)) == 1 + 2 + 1
    assert "… and 4 more (--top 0 shows all)" in text
    assert "... and 4 more (--top 0 shows all)" in render(layers(3), top=2, ascii_only=True)
    assert "--top" not in render(layers(3), top=6)


def test_colour_changes_nothing_but_colour() -> None:
    plain = render(EVERY_KIND, width=100)
    colored = render(EVERY_KIND, width=100, color=True)
    assert "\x1b" not in plain
    assert "\x1b[" in colored
    assert sub(r"\x1b\[[0-9;]*m", "", colored).replace(" \n", "\n") == plain.replace(" \n", "\n")


def test_names_bring_no_colour_and_no_markup() -> None:
    styles = set(sub(r"[^\x1b]*(\x1b\[[0-9;]*m)?", r"\1|", render(hostile_run(), color=True)).split("|"))
    assert styles == set(sub(r"[^\x1b]*(\x1b\[[0-9;]*m)?", r"\1|", render(hostile_run_named(), color=True)).split("|"))
    assert "[bold red]x[/]" in render(hostile_run())


def hostile_run_named() -> RunResult:
    """The same rows under harmless names."""
    rows = [quantized(f"n{i}", [1.0, 2.0], [1.0, 2.5]) for i in range(len(HOSTILE))]
    return replace(run_of(*rows, skipped("s", "reason")), notes=NOTES)


def test_columns_for_trouble_are_there_only_with_trouble() -> None:
    assert "degenerate" not in render(run_of(GOOD, BAD))
    head, *rows = table_lines(render(EVERY_KIND))
    assert "non-finite  non-finite out  degenerate" in head
    assert next(row for row in rows if row.startswith("model.degenerate")).endswith("0               0         2/4")


def test_files_are_shown_where_names_do_not_tell_tensors_apart() -> None:
    twice = [GOOD._replace(source=GOOD.source._replace(file=file)) for file in ("a.npy", "b.npy")]
    assert "a.npy" in render(run_of(*twice))
    assert "a.npy" in render(run_of(GOOD._replace(source=GOOD.source._replace(name="", file="a.npy"))))
    assert "m.safetensors" not in render(run_of(GOOD, BAD))


def test_skipped_tensors_are_counted_by_reason() -> None:
    run = run_of(GOOD, skipped("a", "kept"), skipped("b", "not a float"), skipped("c", "not a float"))
    assert "skipped       2 tensors: not a float\n              1 tensor: kept\n" in render(run)


def test_what_is_doubtful_is_said_with_what_to_do() -> None:
    text = " ".join(render(EVERY_KIND).split())
    assert "the input has 3 NaN or infinite elements, in model.nan.weight, model.inf.weight" in text
    assert "quantization made 1 finite element NaN or infinite, in model.inf.weight" in text
    assert "2 degenerate slices" in text
    assert "--input-min" in text
    assert "warning" not in render(run_of(GOOD))


def test_many_troubled_tensors_are_counted() -> None:
    nan = float("nan")
    run = run_of(*(quantized(f"w{i}", [1.0, nan], [1.0, nan]) for i in range(9)))
    assert "in w0, w1, w2 and 6 more" in render(run)


def test_slices_that_are_all_zero_are_a_note() -> None:
    text = render(run_of(DEGENERATE._replace(num_zero_slices=2)))
    assert "note: 2 of 4 slices (tensor, channel or group) are all zero and stay so, in model.degenerate.weight" in text
    assert "degenerate slice" not in text
    assert "warning" not in text
    assert " degenerate" not in text.splitlines()[0]
    text = " ".join(render(run_of(DEGENERATE._replace(num_zero_slices=1))).split())
    assert "note: 1 of 4 slices (tensor, channel or group) is all zero and stays so" in text
    assert "warning: 1 degenerate slice" in text


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        (QuantSpec(), "try more bits or a given range, or leave the tensor in float with --exclude"),
        (QuantSpec(signed_input=False), "try --signed-input or more bits or a given range, or leave the tensor"),
        (QuantSpec(range_given=True, given_range=(-1.0, 1.0)), "try more bits, or leave the tensor"),
        (QuantSpec(range_given=True, given_range=(-1.0, 1.0), num_bits=24), "; leave the tensor in float"),
    ],
)
def test_what_is_set_already_is_not_advised(spec: QuantSpec, advice: str) -> None:
    nonfinite, degenerate = NONFINITE._replace(spec=spec), DEGENERATE._replace(spec=spec)
    text = " ".join(render(run_of(nonfinite, degenerate)).split())
    assert advice in text
    assert ("--input-min" in text) == (not spec.is_range_given)


def test_groups_are_shown_as_they_are() -> None:
    row = BAD._replace(spec=QuantSpec(group_size=128, ragged_groups=True))
    for shape, size in (((8, 16, 3, 3), 3), ((4, 128), 128), ((4, 130), 128), ((), 1)):
        text = render(run_of(row._replace(source=row.source._replace(shape=shape))))
        assert f" int8 g{size} " in text
        assert (f"note: groups of {size} elements, not 128, in model.bad.weight" in text) == (size < 128)


def test_nothing_quantized_has_no_table() -> None:
    assert (
        render(run_of(SKIPPED))
        == "quantized     0 tensors\nskipped       1 tensor: I64 is not a floating-point dtype\n"
    )


def test_an_exact_run_says_so() -> None:
    assert "SQNR          exact: no element changed" in render(run_of(EXACT))
    assert "lowest" not in render(run_of(EXACT, EXACT))


def test_long_names_are_cut_in_the_middle() -> None:
    assert max(map(len, render(hostile_run()).splitlines())) < 400


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (QuantSpec(), "int8"),
        (QuantSpec(num_bits=4, group_size=128), "int4 g128"),
        (QuantSpec(num_bits=4, axis=1, signed_input=False), "uint4 axis 1"),
        (QuantSpec(narrow_range=True, axis=0), "int8 narrow axis 0"),
    ],
)
def test_bits_and_granularity_in_a_few_words(spec: QuantSpec, words: str) -> None:
    row = quantized("w", [1.0], [1.5], spec=spec)
    row = row._replace(source=row.source._replace(shape=(1, 256)))
    assert f"  {words}  " in table_lines(render(run_of(row)))[1] + "  "


def test_a_terminal_has_heard_the_notes_on_inputs_but_warnings_are_repeated() -> None:
    warned = [note for note in NOTES if note.is_warning and note.kind is not NoteKind.FAILED]  # a failure, too
    assert warned
    for width, shown in ((None, NOTES), (100, warned)):
        words = " ".join(render(EVERY_KIND, width=width).split())
        assert [note for note in NOTES if f"{note.file}: " in words] == list(shown)
