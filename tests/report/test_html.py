"""The page: harmless whatever the names, small, and alive in a browser."""

import hashlib
import json
import math
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qdqcli.report.formatter import formatter
from qdqcli.report.options import ReportOptions
from qdqcli.result.histogram import Histogram, Histograms
from qdqcli.result.result import RunResult, TensorResult
from qdqcli.result.verdict import Verdict, Violation
from tests.report.samples import BAD, EVERY_KIND, GOOD, HOSTILE, hostile_run, quantized, run_of

HISTOGRAMS = Histograms(
    values=Histogram(low=-0.25, high=0.5, counts=[1000 * i % 7919 for i in range(64)]),
    errors=Histogram(low=-0.01, high=0.01, counts=[31 * i % 997 for i in range(64)]),
)


def page(run: RunResult) -> str:
    return "".join(formatter("html")(run, ReportOptions()))


def many(count: int) -> RunResult:
    rows = [
        quantized(
            f"model.layers.{i}.self_attn.q_proj.weight", [1.0, 2.0 + i], [1.0, 2.0 + i + 2.0 ** -(i % 11)]
        )._replace(
            histograms=HISTOGRAMS,
            channels={"rmse": [0.125 * i for i in range(4096)]},
        )
        for i in range(count)
    ]
    found = [
        Violation(tensor=row.source.name, file=row.source.file, metric="sqnr_db", limit=30.0, actual=float(i),
                  excess_db=30.0 - i, origin="limits")
        for i, row in enumerate(rows[:25])
    ]  # fmt: skip
    return replace(run_of(*rows), verdict=Verdict(violations=found))


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


def read(run: RunResult) -> Reader:
    reader = Reader()
    reader.feed(page(run))
    return reader


def test_hostile_names_make_no_tags_and_no_attributes() -> None:
    plain = {tag for tag, _ in read(EVERY_KIND).tags}
    found = read(replace(hostile_run(), verdict=Verdict(violations=[
        Violation(tensor=name, file=name, metric="sqnr_db", limit=1.0, actual=0.0, origin="limits") for name in HOSTILE
    ])))  # fmt: skip
    assert {tag for tag, _ in found.tags} <= plain | {
        "ol",
        "li",
        "span",
        "strong",
        "section",
        "details",
        "summary",
        "label",
    }
    known = {"onclick", "onerror", "onload", "href"}
    assert all(
        key not in known or str(value).startswith("#t") for _, attrs in found.tags for key, value in attrs.items()
    )
    data = json.loads("".join(found.data))
    assert len(data["tensors"]) == sum(isinstance(row, TensorResult) for row in hostile_run().rows)


def test_nothing_is_fetched() -> None:
    reader = read(many(3))
    assert not [tag for tag, _ in reader.tags if tag in ("link", "img", "iframe", "base", "object")]
    assert not [attrs for _, attrs in reader.tags if "src" in attrs]
    assert "default-src 'none'" in page(many(1))


def test_every_tensor_is_in_the_table_and_in_the_picture() -> None:
    tags = read(many(30)).tags
    ids = [attrs["id"] for tag, attrs in tags if tag == "tr" and "id" in attrs]
    assert sorted(map(str, ids)) == sorted(f"t{i}" for i in range(30))
    assert [attrs["href"] for tag, attrs in tags if tag == "a"] == [f"#t{i}" for i in range(30)]


def test_a_thousand_tensors_are_under_three_megabytes() -> None:
    assert 500_000 < len(page(many(1000)).encode()) < 3_000_000


def test_a_page_needs_neither_histograms_nor_channels() -> None:
    data = json.loads("".join(read(run_of(GOOD, BAD._replace(channels={"mse": [1.0]}))).data))
    assert [set(tensor) for tensor in data["tensors"]] == [{"stats", "range", "ranges"}] * 2


@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan])
def test_a_range_that_cannot_be_drawn_is_left_out(end: float) -> None:
    """JSON has no infinity, and the page would hold none of its data."""
    data = json.loads("".join(read(run_of(GOOD, BAD._replace(input_max=end))).data))
    assert [len(tensor["range"]) for tensor in data["tensors"]] == [2, 0]


def test_the_policy_names_our_script_and_our_style_and_nothing_else() -> None:
    text = page(many(2))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert "unsafe" not in policy
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not [attrs for _, attrs in read(many(2)).tags if "style" in attrs or any(key[:2] == "on" for key in attrs)]


# In a browser


def rendered(path: Path, anchor: str = "") -> str:
    """The page, opened at an anchor, as Chromium has it once its scripts have run."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no Chromium here: apt-get install chromium")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{path.as_uri()}#{anchor}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_our_script_runs_under_the_policy_and_no_other_does(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text(page(many(3)).replace("</main>", "<b id=evil></b><script>evil.textContent = 'run'</script></main>"))
    shown = rendered(path)
    assert ">3 of 3 tensors<" in shown
    assert '<b id="evil"></b>' in shown


@pytest.mark.parametrize(
    ("num_slices", "words"), [(1, "the range that sets the grid"), (4096, "end of its 4,096 ranges")]
)
def test_the_caption_says_how_many_ranges_there_are(tmp_path: Path, num_slices: int, words: str) -> None:
    path = tmp_path / "r.html"
    path.write_text(page(run_of(many(1).rows[0]._replace(num_slices=num_slices))))
    assert words in rendered(path, "t0")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    selenium = pytest.importorskip("selenium.webdriver", reason="no selenium here")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Any:
    path = tmp_path / "r.html"
    rows = [quantized("exact.weight", [1.0], [1.0]), BAD, GOOD]
    path.write_text(page(replace(many(30), rows=[*many(30).rows, *rows])), encoding="utf-8")
    browser.get(path.as_uri())
    return browser


def names(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('#tensors tbody tr[id]')].filter(r => !r.hidden)" \
             ".map(r => r.querySelector('button').textContent)"  # fmt: skip
    return list(browser.execute_script(script))


def click(browser: Any, selector: str, index: int = 0) -> None:
    browser.find_elements("css selector", selector)[index].click()


def test_a_click_on_a_title_sorts(opened: Any) -> None:
    before = names(opened)
    assert before[-1] == "exact.weight", "the worst SQNR first; what lost nothing last"
    click(opened, "thead button")
    assert names(opened) == sorted(before)
    click(opened, "thead button")
    assert names(opened) == sorted(before, reverse=True)
    column = next(i for i, head in enumerate(opened.find_elements("css selector", "thead th"))
                  if head.text.startswith("max"))  # fmt: skip
    click(opened, "thead button", column)
    script = (
        "return [...document.querySelectorAll('#tensors tbody tr[id]')].map(r => +r.cells[arguments[0]].dataset.value)"
    )
    values = opened.execute_script(script, column)
    assert values == sorted(values, reverse=True), "the worst first"
    click(opened, "thead button", column)
    assert opened.execute_script(script, column) == sorted(values)


def test_words_filter_the_table(opened: Any) -> None:
    field = opened.find_element("id", "filter")
    field.send_keys("LAYERS.1 q_proj")
    assert {name.split(".")[2] for name in names(opened)} == {"1", *(str(i) for i in range(10, 20))}
    assert opened.find_element("id", "shown").text == "11 of 33 tensors"
    field.clear()
    field.send_keys("no such tensor")
    assert names(opened) == []


def test_only_violations_are_shown_on_demand(opened: Any) -> None:
    click(opened, "#failing")
    assert len(names(opened)) == 25
    click(opened, "#failing")
    assert len(names(opened)) == 33


def test_a_tensor_opens_by_keyboard_with_its_pictures(opened: Any) -> None:
    button = opened.find_element("css selector", "tr.violated button")
    button.send_keys("\ue007")  # Enter
    assert button.get_attribute("aria-expanded") == "true"
    captions = [c.text for c in opened.find_elements("css selector", "tr.more figcaption")]
    assert captions == [
        "Weights, log scale; dashed: the lowest and the highest end of its 4 ranges",
        "Errors e = y - x, log scale; dashed: zero",
        "RMSE by channel or group: the worst of each 32",
    ]
    assert len(opened.find_elements("css selector", "tr.more rect")) == 64 + 64 + 128
    button.send_keys("\ue007")
    assert opened.find_elements("css selector", "tr.more") == []


def test_a_dot_opens_its_tensor(opened: Any) -> None:
    opened.execute_script("document.querySelector('a[href=\"#t7\"]').dispatchEvent("
                          "new MouseEvent('click', {bubbles: true}))")  # fmt: skip
    opened.execute_async_script("setTimeout(arguments[0], 100)")
    row = opened.find_element("id", "t7")
    assert row.find_element("tag name", "button").get_attribute("aria-expanded") == "true"


def test_the_browser_has_nothing_to_complain_about(opened: Any) -> None:
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
