"""The page: harmless whatever the names, small, and alive in a browser."""

import hashlib
import json
import math
import re
import shlex
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qdqcli.op.spec import QuantSpec
from qdqcli.report.formatter import formatter
from qdqcli.report.html.grid import STATIC_ROWS, levels_of, shade, show
from qdqcli.report.html.pictures import grid_of
from qdqcli.report.options import ReportOptions
from qdqcli.result.histogram import Histogram, Histograms
from qdqcli.result.read import from_json
from qdqcli.result.result import Bound, Row, RunResult, TensorResult, to_json
from qdqcli.result.verdict import Severity, Verdict, Violation
from tests.report.chromium import Browser, chromium
from tests.report.samples import BAD, EVERY_KIND, EXACT, GOOD, HOSTILE, UNMEASURED, hostile_run, quantized, run_of

HISTOGRAMS = Histograms(
    values=Histogram(low=-0.25, high=0.5, counts=[1000 * i % 7919 for i in range(64)]),
    errors=Histogram(low=-0.01, high=0.01, counts=[31 * i % 997 for i in range(64)]),
)
KINDS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def page(run: RunResult) -> str:
    return "".join(formatter("html")(run, ReportOptions()))


def named(number: int) -> str:
    return f"model.layers.{number // len(KINDS)}.{KINDS[number % len(KINDS)]}.weight"


def tensor(number: int) -> TensorResult:
    """A row unlike any other."""
    return quantized(named(number), [1.0, 2.0 + number], [1.0, 2.0 + number + 1.7 ** -(number % 11 + number / 1e4)])


def many(count: int) -> RunResult:
    """Rows with pictures, a limit each, and the first three beyond it: an error, a warning, and one waived."""
    rows = [
        tensor(number)._replace(
            histograms=HISTOGRAMS,
            channels={"rmse": [0.125 * i for i in range(4096)]},
            bound=Bound("sqnr_db", 30.0, -1.5 if number < 3 else 0.5),
            share=0.5 if number == 0 else 0.01,
        )
        for number in range(count)
    ]
    found = [
        Violation(tensor=row.source.name, file=row.source.file, metric="sqnr_db", limit=30.0, actual=28.5,
                  severity=severity, excess_db=1.5, origin="limits", budget="b.toml", waiver=waiver)
        for row, severity, waiver in zip(rows, (Severity.ERROR, Severity.WARN, Severity.ERROR), (None, None, "why not"),
                                         strict=False)
    ]  # fmt: skip
    return replace(run_of(*rows), command="check", verdict=Verdict(violations=found[:2], waived=found[2:]))


def plain(count: int) -> RunResult:
    return run_of(*map(tensor, range(count)))


class Reader(HTMLParser):
    """Tags, attributes and the embedded data, as a parser finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[str] = []
        self.text: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = (tag, dict(attrs).get("id")) == ("script", "data")

    def handle_data(self, data: str) -> None:
        (self.data if self._script else self.text).append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def grid(run: RunResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("".join(read(page(run)).data))["grid"]
    return found


def column(run: RunResult, name: str) -> list[Any]:
    """A column of the embedded data, with a value for each row."""
    found = grid(run)
    (own,) = [one for one in found["columns"] if one["name"] == name]
    if "each" in own:
        return list(own["each"])
    return [own["of"][i] for i in own["at"]] if "of" in own else [own["all"]] * found["count"]


def shown(run: RunResult) -> list[str]:
    return [one["title"] for one in grid(run)["columns"] if one["shown"]]


def classes(run: RunResult) -> list[str]:
    """The classes of the paths with dots."""
    return [str(attrs["class"]).removeprefix("dots ") for tag, attrs in read(page(run)).tags
            if tag == "path" and str(attrs.get("class")).startswith("dots")]  # fmt: skip


# What the page is


def test_hostile_names_make_no_tags_and_no_attributes() -> None:
    plain_tags = {tag for run in (EVERY_KIND, many(12)) for tag, _ in read(page(run)).tags} | {"h3"}
    violations = [
        Violation(tensor=name, file=name, metric="sqnr_db", limit=1.0, actual=0.0, origin="limits", budget=name)
        for name in HOSTILE
    ]
    settings = {name or "-": name for name in HOSTILE} | {"recipe": HOSTILE[1], "presets": list(HOSTILE)}
    hostile = replace(hostile_run(), verdict=Verdict(violations=violations), settings=settings, command="check")
    found = read(page(hostile))
    assert {tag for tag, _ in found.tags} <= plain_tags
    assert not [key for _, attrs in found.tags for key in attrs if key.startswith("on") or key in ("href", "style")]
    assert json.loads("".join(found.data))["grid"]["count"] == sum(isinstance(r, TensorResult) for r in hostile.rows)


def test_nothing_is_fetched() -> None:
    reader = read(page(many(3)))
    assert not [tag for tag, _ in reader.tags if tag in ("link", "img", "iframe", "base", "object")]
    assert not [attrs for _, attrs in reader.tags if "src" in attrs]
    assert "default-src 'none'" in page(many(1))


def test_the_policy_names_our_script_and_our_style_and_nothing_else() -> None:
    text = page(many(2))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_the_same_data_make_the_same_page_also_from_a_stored_report() -> None:
    run = many(12)
    assert page(run) == page(many(12))
    again = from_json(json.loads(json.dumps(to_json(run))))
    assert shown(again) == shown(run)
    assert column(again, "margin") == column(run, "margin") == [-1.5] * 3 + [0.5] * 9


def test_a_report_of_before_bounds_were_kept_makes_a_page() -> None:
    data = to_json(many(12))
    for row in data["tensors"]:
        del row["bound"]
    assert "What to do" in page(from_json(data))


def test_the_first_rows_are_there_without_a_script_and_all_in_the_data() -> None:
    run = plain(STATIC_ROWS + 20)
    text = page(run)
    ids = [int(str(attrs["id"])[1:]) for tag, attrs in read(text).tags if tag == "tr" and "id" in attrs]
    worst = sorted(run.quantized, key=lambda row: row.stats["sqnr_db"] or 0)
    assert [run.rows[i] for i in ids] == worst[:STATIC_ROWS]
    assert column(run, "tensor") == [row.name for row in run.quantized]
    assert f"The first {STATIC_ROWS} of {STATIC_ROWS + 20} tensors" in re.findall("<noscript>(.*?)</noscript>", text)[0]


def test_eight_thousand_tensors_are_under_two_megabytes_and_written_in_pieces() -> None:
    run = plain(8000)
    run = replace(run, rows=[row._replace(share=1 / (n + 7), bound=Bound("sqnr_db", 20.0, n / 7.3))
                             for n, row in enumerate(run.quantized)],
                  verdict=Verdict(violations=[]))  # fmt: skip
    pieces = list(formatter("html")(run, ReportOptions()))
    size = sum(len(piece.encode()) for piece in pieces)
    assert 700_000 < size < 2_000_000
    assert max(map(len, pieces)) < 200_000, "no piece grows with the whole page"


def test_a_thousand_tensors_with_pictures_are_under_three_megabytes() -> None:
    assert 500_000 < len(page(many(1000)).encode()) < 3_000_000


def test_a_page_needs_neither_histograms_nor_channels_nor_tensors() -> None:
    assert grid(run_of(GOOD, BAD._replace(channels={"mse": [1.0]})))["details"] == {}
    assert json.loads("".join(read(page(run_of())).data)) == {"grid": None}


# What it shows


def test_dots_have_the_colour_of_the_verdict_and_none_without_a_budget() -> None:
    assert classes(plain(30)) == ["plain"]
    assert sorted(classes(many(30))) == ["error", "plain", "waived", "warn"]
    dots = re.findall(r'class="dots \w+" d="([^"]*)"', page(many(30)))
    assert sum(path.count("h0") for path in dots) == 30


def test_a_limit_is_a_line_in_the_chart_and_two_columns() -> None:
    assert 'class="limit"' in page(many(9))
    assert 'class="limit"' not in page(plain(9))
    assert shown(many(9))[:5] == ["tensor", "SQNR dB", "verdict", "margin dB", "share"]
    assert "In every row: limit dB 30.00" in page(many(9))
    rows = [GOOD._replace(bound=Bound("rmse", 0.25, 3.0)), BAD._replace(bound=Bound("sqnr_db", 30.0, None))]
    assert column(run_of(*rows), "limit") == ["RMSE 0.250", "SQNR 30.00 dB"]
    assert column(run_of(*rows), "margin") == [3.0, None]


def test_a_baseline_is_two_columns() -> None:
    run = run_of(GOOD._replace(baseline_db=40.0), BAD, EXACT._replace(baseline_db=40.0))
    assert "before dB" not in shown(run_of(GOOD, BAD))
    assert column(run, "before") == [40.0, None, 40.0]
    assert column(run, "change") == [pytest.approx(float(GOOD.stats["sqnr_db"] or 0) - 40, abs=1e-6), None, None]


def test_cards_have_sizes_and_the_share_of_tensors_that_pass() -> None:
    text = " ".join(read(page(many(8))).text)
    assert "tensors that pass 75.00% 6 of 8" in re.sub(r"\s+", " ", text)
    assert "tensors that pass" not in page(plain(8))
    big = GOOD._replace(sums=GOOD.sums._replace(num_elements=4_000_000))
    assert "4 MB</dd><dd class=quiet>before: 8 MB, 2.00 times as much" in page(run_of(big))


def test_the_matrix_has_the_worst_of_a_kind_and_layer() -> None:
    run = many(15)
    text = page(run)
    (table,) = re.findall(r'<table class="matrix">.*?</table>', text, re.DOTALL)
    cells = re.findall(r'<td class="number (\w+)" data-words="([^"]*)">([^<]*)</td>', table)
    assert len(cells) == 15
    assert cells[0] == ("error", "model.layers.0. self_attn.q_proj.weight", f"{run.rows[0].stats['sqnr_db']:.1f}")  # type: ignore[union-attr]
    assert {kind for kind, *_ in cells} >= {"error", "warn", "waived"}
    assert "<code>model.layers.*</code>" in table
    assert '<table class="matrix">' not in page(run_of(GOOD, BAD)), "names without layers"


def test_the_matrix_tells_what_lost_nothing_from_what_could_not_be_measured() -> None:
    kinds = (EXACT, UNMEASURED, GOOD, BAD)
    rows = [row._replace(source=row.source._replace(name=f"l.{n % 2}.{'ab'[n // 2]}.w")) for n, row in enumerate(kinds)]
    cells = re.findall(r'<td class="[^"]*" data-words="[^"]*">([^<]*)</td>', page(run_of(*rows)))
    assert cells == ["exact", "-", f"{GOOD.stats['sqnr_db']:.1f}", f"{BAD.stats['sqnr_db']:.1f}"]


def test_several_inputs_have_a_section_each_and_a_row_each() -> None:
    rows = [
        tensor(n)._replace(source=tensor(n).source._replace(file=f"{'ab'[n // 6]}/m.safetensors")) for n in range(12)
    ]
    text = page(run_of(*rows, inputs=("a", "b")))
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["a", "b"]
    assert re.findall(r'data-first="(\d+)" data-count="(\d+)"', text) == [("0", "6"), ("6", "6")]
    assert column(run_of(*rows, inputs=("a", "b")), "input") == ["a"] * 6 + ["b"] * 6


def advice(run: RunResult) -> str:
    found = re.findall(r'<section class="advice">(.*?)</section>', page(run), re.DOTALL)
    return unescape(found[0]) if found else ""


def commands(run: RunResult) -> list[str]:
    return re.findall(r"<code>(qdq .*?)</code>", advice(run))


def test_what_to_do_names_what_fails_its_share_and_commands() -> None:
    said = advice(many(30))
    assert "2 of 30 tensors fail, with 51.00% of the squared error" in said
    assert "model.layers.0.self_attn.q_proj.weight" in said
    diagnose, plan, check = map(shlex.split, commands(many(30)))
    chosen = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"]
    assert diagnose[:2] == ["qdq", "diagnose"]
    assert [word for word in diagnose if word in chosen] == chosen
    assert plan[:3] == ["qdq", "plan", "m.safetensors"]
    assert plan[-4:] == ["--min-sqnr", "30.0", "-o", "plan.toml"]
    assert check[-4:] == ["--exclude", chosen[0], "--exclude", chosen[1]]
    assert "[[waivers]]" in said


def test_commands_take_a_project_file_as_such() -> None:
    run = many(30)
    for name in ("../qdq.toml", "pyproject.toml"):
        own = commands(replace(run, settings={**run.settings, "recipe": name}))
        diagnose, plan, check = map(shlex.split, own)
        assert [words[words.index("--config") + 1] for words in (diagnose, plan, check)] == [name] * 3
        assert not any("--recipe" in words for words in (diagnose, plan, check))


def test_there_is_nothing_to_do_where_nothing_fails() -> None:
    assert advice(plain(5)) == ""
    assert advice(replace(many(5), verdict=Verdict(violations=[]))) == ""


def failing(*names: str, of: Sequence[str]) -> RunResult:
    rows = [GOOD._replace(source=GOOD.source._replace(name=name)) for name in of]
    found = [Violation(tensor=name, file="m.safetensors", metric="sqnr_db", limit=99.0, actual=1.0, origin="limits")
             for name in names]  # fmt: skip
    return replace(run_of(*rows), command="check", verdict=Verdict(violations=found))


def test_a_pattern_matches_what_fails_and_nothing_else() -> None:
    names = [f"l.{n}.{kind}" for n in range(3) for kind in ("a.w", "b.a.w")]
    assert "--include 'l.*.b.a.w'" in commands(failing("l.0.b.a.w", "l.1.b.a.w", "l.2.b.a.w", of=names))[0]
    assert r"--include 're:l\.\d+\.a\.w'" in commands(failing("l.0.a.w", "l.1.a.w", "l.2.a.w", of=names))[0]
    assert "--include l.0.a.w --include l.2.a.w" in commands(failing("l.0.a.w", "l.2.a.w", of=names))[0]


def test_commands_name_a_dozen_patterns_at_most() -> None:
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}.w" for n in range(30)]
    assert len(commands(failing(*names[:12], of=names))) == 3
    (few,) = commands(failing(*names[:13], of=names))[:1]
    assert "--include" not in few
    assert "[[waivers]]" not in advice(failing(*names[:13], of=names))


def test_numbers_of_layers_come_first_below_a_chart() -> None:
    names = ["model.embed.weight", *(f"model.layers.{n // 5}.{kind}" for n, kind in enumerate(KINDS * 3)), "lm_head"]
    rows = [GOOD._replace(source=GOOD.source._replace(name=name)) for name in names]
    ticks = re.findall(r'<text class="tick([^"]*)"[^>]*>(\w+)<', page(run_of(*rows)))
    assert [label for _, label in ticks] == ["0", "1", "2"]


def test_how_it_was_made_is_said() -> None:
    text = unescape(page(replace(plain(3), settings={"num_bits": 4, "group_size": 128, "include": ["*.w x"]})))
    made = text[text.index('id="made"') :]
    assert "qdq stats m.safetensors --scheme int4-g128 --include '*.w x'" in made
    assert "<dt>group_size</dt><dd>128</dd>" in made
    assert "3 tensors in 1 file, 12 bytes" in made


@pytest.mark.parametrize("value", [None, [], [[1]], {"a": 1}, "x", 1e300, True, -1], ids=str)
def test_settings_of_any_kind_make_a_page(value: object) -> None:
    """A report may come from a later version, or from nobody's."""
    names = ("num_bits", "axis", "group_size", "include", "presets", "recipe", "min_ndim", "signed_input", "percentile")
    for name in names:
        assert "What to do" in page(replace(many(5), settings={"num_bits": 4, "axis": 0, name: value}))


# Pictures


@pytest.mark.parametrize(
    ("spec", "low", "high", "step"),
    [
        (QuantSpec(num_bits=4), -8.0, 3.5, 1.0),
        (QuantSpec(num_bits=4), -4.0, 7.0, 1.0),
        (QuantSpec(num_bits=4, narrow_range=True), -7.0, 0.0, 1.0),
        (QuantSpec(num_bits=8, signed_input=False), 0.0, 255.0, 1.0),
        (QuantSpec(num_bits=8, signed_input=False), -3.0, 127.5, 0.5),
    ],
)
def test_the_grid_is_that_of_the_op(spec: QuantSpec, low: float, high: float, step: float) -> None:
    found = grid_of(GOOD._replace(spec=spec, input_min=low, input_max=high))
    assert found["step"] == step
    assert found["codes"] == [spec.quantized_min, spec.quantized_max]


@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan, None])
def test_a_range_that_cannot_be_drawn_is_left_out(end: float | None) -> None:
    """JSON has no infinity, and the page would hold none of its data."""
    rows: list[Row] = [GOOD._replace(histograms=HISTOGRAMS), BAD._replace(histograms=HISTOGRAMS, input_max=end)]
    details = grid(run_of(*rows))["details"]
    assert "range" in details["0"]
    assert "range" not in details["1"]


def test_a_limit_beyond_any_sqnr_is_not_drawn() -> None:
    run = run_of(*(GOOD._replace(bound=Bound("sqnr_db", limit, None)) for limit in (1e300, -1e300, 60.0)))
    assert 'data-low="60"' in page(run)
    assert page(run).count('class="limit"') == 1


def test_shades_are_dark_where_a_value_is_low() -> None:
    levels = levels_of([10.0, 18.0, None, "exact"])
    assert levels == [11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]
    assert [shade(levels, value) for value in (10.0, 14.5, 18.0, "exact", None)] == ["q0", "q4", "q7", "q7", ""]
    assert levels_of([1.0, 1.0]) == levels_of([]) == []


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Browser:
    return of(browser, tmp_path, replace(many(30), rows=[*many(30).rows, EXACT, BAD, GOOD]))


def of(browser: Browser, folder: Path, run: RunResult, anchor: str = "") -> Browser:
    path = folder / "r.html"
    path.write_text(page(run), encoding="utf-8")
    browser.errors.clear()
    browser.open(path, anchor)
    return browser


NAMES = "[...document.querySelectorAll('#rows tbody tr[id] th')].map(e => e.textContent)"


def names(browser: Browser) -> list[str]:
    return list(browser.run(NAMES))


def click(browser: Browser, selector: str, index: int = 0) -> None:
    browser.run(f"document.querySelectorAll({json.dumps(selector)})[{index}].click()")


def fill(browser: Browser, selector: str, text: str) -> None:
    browser.run(f"(e => {{ e.value = {json.dumps(text)}; e.dispatchEvent(new Event('input')); }})"
                f"(document.querySelector({json.dumps(selector)}))")  # fmt: skip


def test_our_script_runs_under_the_policy_and_no_other_does(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text(page(many(3)).replace("</main>", "<b id=evil></b><script>evil.textContent = 'run'</script></main>"))
    browser.open(path)
    assert browser.run("document.getElementById('told').textContent") == "3 tensors"
    assert browser.run("document.getElementById('evil').textContent") == ""
    assert any("Content Security Policy" in error for error in browser.errors)


def test_rows_made_by_the_script_are_those_that_the_page_came_with(opened: Browser, tmp_path: Path) -> None:
    values = [0.0, 1e-5, 0.00012345, 0.5, 1.0, 0.99996, 123.456, 1e9, -1234.5, 1e-300, 99.96, "exact", None]
    static = re.findall(r'<tr id="t\d+"[^>]*>(.*?)</tr>', (tmp_path / "r.html").read_text(encoding="utf-8"))
    cells = "[...document.querySelectorAll('#rows tbody tr[id]')].map(e => [...e.cells].map(c => c.textContent))"
    assert opened.run(cells) == [[unescape(cell) for cell in re.findall(r">([^<>]*)</t[dh]>", row)] for row in static]
    rows = [GOOD._replace(reported={**GOOD.stats, "rmse": value, "mean_error": value, "clipped_fraction": value,
                                    "share": value}) for value in values if value != "exact"]  # fmt: skip
    of(opened, tmp_path, run_of(*rows, GOOD))
    static = re.findall(r'<tr id="t\d+"[^>]*>(.*?)</tr>', (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert opened.run(cells) == [[unescape(cell) for cell in re.findall(r">([^<>]*)</t[dh]>", row)] for row in static]
    assert show("digits", 1e-300) in json.dumps(opened.run(cells))


def test_a_click_on_a_title_sorts(opened: Browser) -> None:
    before = names(opened)
    assert before[-1] == EXACT.name, "the worst SQNR first; what lost nothing last"
    click(opened, "thead button")
    natural = sorted(before, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    assert names(opened) == natural, "layer 2 before layer 10"
    click(opened, "thead button")
    assert names(opened) == natural[::-1]
    titles = opened.run("[...document.querySelectorAll('thead button')].map(e => e.textContent)")
    place = next(i for i, title in enumerate(titles) if title.startswith("max"))
    click(opened, "thead button", place)
    values = f"[...document.querySelectorAll('#rows tbody tr[id]')].map(e => +e.cells[{place}].textContent)"
    assert opened.run(values) == sorted(opened.run(values), reverse=True), "the worst first"
    click(opened, "thead button", place)
    assert opened.run(values) == sorted(opened.run(values))
    assert opened.run("[...document.querySelectorAll('[aria-sort]')].map(e => e.ariaSort)") == ["ascending"]


def test_words_filter_the_table(opened: Browser) -> None:
    fill(opened, "#filter", "LAYERS.1. proj")
    assert {name.split(".")[2] for name in names(opened)} == {"1"}
    assert opened.run("document.getElementById('told').textContent") == "5 of 33 tensors"
    fill(opened, "#filter", "no such tensor")
    assert names(opened) == []
    click(opened, "thead button")
    assert names(opened) == [], "sorting keeps the filter"


def test_a_verdict_filters_the_table(opened: Browser) -> None:
    options = opened.run("[...document.querySelectorAll('#only option')].map(e => e.textContent)")
    assert options == ["all verdicts", "violations", "error", "warn", "waived"]
    fill(opened, "#only", "error warn waived")
    assert sorted(names(opened)) == sorted(map(named, range(3)))
    fill(opened, "#only", "waived")
    assert names(opened) == [named(2)]


def test_an_input_filters_the_table(browser: Browser, tmp_path: Path) -> None:
    rows = [
        tensor(n)._replace(source=tensor(n).source._replace(file=f"{'ab'[n // 6]}/m.safetensors")) for n in range(12)
    ]
    of(browser, tmp_path, run_of(*rows, inputs=("a", "b")))
    fill(browser, "#from", "b")
    assert sorted(names(browser)) == sorted(map(named, range(6, 12)))


def test_a_tensor_opens_by_keyboard_with_its_pictures(opened: Browser) -> None:
    opened.run("document.querySelector('tr.error button').focus()")
    opened.press("Enter")
    assert opened.run("document.querySelector('tr.error button').ariaExpanded") == "true"
    captions = opened.run("[...document.querySelectorAll('tr.more figcaption')].map(e => e.textContent)")
    assert captions[0].startswith("Weights, log scale; dashed: the range of the widest of 4 ranges")
    assert captions[1].startswith("Errors e = y - x in steps of the widest of 4 ranges, log scale; one step is 0.01")
    assert captions[2] == "RMSE by channel or group: the worst of each 32"
    assert opened.run("document.querySelectorAll('tr.more rect.bar').length") == 64 + 64 + 128
    facts = opened.run("[...document.querySelectorAll('tr.more dt')].map(e => e.textContent)")
    assert "cosine" in facts
    opened.press("Enter")
    assert opened.run("document.querySelector('tr.more')") is None


@pytest.mark.parametrize(("slices", "bits", "words"), [
    (1, 4, "dashed: the range; ticks: the 16 levels; clipped: 12.50%"), (1, 8, "dashed: the range; clipped: 12.50%"),
    (4096, 4, "dashed: the range of the widest of 4,096 ranges; ticks: the 16 levels; clipped: 12.50%"),
])  # fmt: skip
def test_the_caption_says_range_levels_and_what_is_clipped(
    browser: Browser, tmp_path: Path, slices: int, bits: int, words: str
) -> None:
    row = GOOD._replace(num_slices=slices, histograms=HISTOGRAMS, spec=QuantSpec(num_bits=bits), input_min=-0.1,
                        input_max=0.1, reported={**GOOD.stats, "clipped_fraction": 0.125})  # fmt: skip
    of(browser, tmp_path, run_of(row), "t0")
    assert browser.run("document.querySelector('tr.more figcaption').textContent") == f"Weights, log scale; {words}"
    ticks = browser.run("document.querySelectorAll('.level').length")
    assert ticks == (16 if bits == 4 else 0)
    assert browser.run("document.querySelectorAll('.clipped').length") == 2


def test_a_comparison_has_no_grid_and_its_pictures_are_drawn_all_the_same(browser: Browser, tmp_path: Path) -> None:
    of(browser, tmp_path, run_of(GOOD._replace(spec=None, histograms=HISTOGRAMS)), "t0")
    captions = browser.run("[...document.querySelectorAll('tr.more figcaption')].map(e => e.textContent)")
    assert captions == ["Weights, log scale", "Errors e = y - x, log scale"]
    assert browser.errors == []


def test_the_chart_opens_a_tensor_by_keys_and_by_mouse(opened: Browser) -> None:
    opened.run("document.querySelector('svg.plot').focus()")
    opened.press("Home")
    opened.press("ArrowRight")
    assert opened.run("document.querySelector('.tip').textContent").startswith(f"{named(1)}: ")
    opened.press("Enter")
    assert opened.run("document.activeElement.closest('tr').id") == "t1"
    opened.run("document.querySelector('svg.plot').focus()")
    for _ in range(6):
        opened.press("ArrowRight")
    opened.run("(box => document.querySelector('svg.plot').dispatchEvent(new MouseEvent('click', {bubbles: true, "
               "clientX: box.left + box.width / 2, clientY: box.top + box.height / 2})))"
               "(document.querySelector('.cursor').getBoundingClientRect())")  # fmt: skip
    assert opened.run("document.querySelector('#t7 button').ariaExpanded") == "true"


def test_a_cell_of_the_matrix_shows_its_tensors(opened: Browser) -> None:
    click(opened, ".matrix td[data-words]", 6)
    assert names(opened) == ["model.layers.0.self_attn.k_proj.weight"]


def test_keys_go_through_the_matrix(opened: Browser) -> None:
    cells = "[...document.querySelectorAll('.matrix td[data-words]')]"
    assert opened.run(f"{cells}.filter(cell => cell.tabIndex === 0).length") == 1, "one stop for Tab"
    opened.run(f"{cells}[0].focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowDown"):
        opened.press(key)
    focused = opened.run("document.activeElement.dataset.words")
    assert focused == opened.run("document.querySelector('.matrix tbody').rows[1].cells[1].dataset.words")
    opened.press("Enter")
    assert len(names(opened)) == 1
    assert opened.run("document.querySelector('input[type=search]').value") == focused


def test_eight_thousand_rows_open_sort_and_filter(browser: Browser, tmp_path: Path) -> None:
    run = plain(8000)
    of(browser, tmp_path, run, "t7999")
    assert browser.run("document.activeElement.textContent") == named(7999)
    of(browser, tmp_path, run)
    assert browser.run("document.querySelectorAll('*').length") < 10_000, "rows are made on demand"
    assert len(names(browser)) == 200
    click(browser, "button.more")
    assert len(names(browser)) == 400
    assert browser.run("document.activeElement.closest('tr').rowIndex") == 201
    worst = max(run.quantized, key=lambda row: row.stats["rmse"] or 0)
    titles = browser.run("[...document.querySelectorAll('thead button')].map(e => e.textContent)")
    click(browser, "thead button", titles.index("RMSE"))
    assert names(browser)[0] == worst.name
    fill(browser, "#filter", "layers.1599. up_proj")
    assert names(browser) == ["model.layers.1599.mlp.up_proj.weight"]
    assert browser.errors == []


@pytest.mark.slow
def test_a_hundred_thousand_rows_open(browser: Browser, tmp_path: Path) -> None:
    of(browser, tmp_path, plain(100_000))
    assert browser.run("document.getElementById('told').textContent") == "100,000 tensors"


def test_the_browser_has_nothing_to_complain_about(opened: Browser) -> None:
    for index in range(3):
        click(opened, "#rows tbody button", index)
    assert opened.errors == []


@pytest.mark.parametrize("is_dark", [False, True])
def test_text_has_the_contrast_that_wcag_asks_for(browser: Browser, tmp_path: Path, is_dark: bool) -> None:
    of(browser, tmp_path, many(30))
    browser.open(tmp_path / "r.html", "t0", is_dark=is_dark)
    script = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
    assert browser.run(script) == []


def test_a_phone_shows_the_sqnr_beside_the_name(browser: Browser, tmp_path: Path) -> None:
    of(browser, tmp_path, many(30))
    browser.open(tmp_path / "r.html", "t0", width=390)
    right = "document.querySelectorAll('#rows tbody tr[id] td:nth-child(2)')[0].getBoundingClientRect().right"
    assert browser.run(right) <= 390
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelector('tr.more > td > div').getBoundingClientRect().right") <= 390
