"""HTML pages of the commands: each says how it was made, and its command makes it again."""

import re
import shlex
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Qdq
from tests.report.chromium import chromium
from tests.run.checkpoints import write_safetensors


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two layers; rows of 64, one of them with an outlier. The working folder is that of the model."""
    random = np.random.default_rng(3)
    tensors = {
        f"layers.{layer}.{kind}.weight": random.standard_normal((16, 64)).astype("<f4")
        for layer in range(2)
        for kind in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    tensors["layers.1.o_proj.weight"][3, 3] = 40
    tensors["layers.1.norm.weight"] = np.ones(64, "<f4")
    monkeypatch.chdir(tmp_path)
    write_safetensors(tmp_path / "model" / "model.safetensors", tensors)
    return Path("model")


def made(page: str) -> list[str]:
    """The command line of the section *How this was made*."""
    section = page[page.index('id="made"') :]
    return shlex.split(unescape(re.findall(r"<code>(qdq .*?)</code>", section)[0]))


@pytest.mark.parametrize(
    "given",
    [
        ("stats",),
        ("stats", "-s", "int4-g32", "--min-ndim", "1", "--estimator", "mse", "--narrow-range", "--scale-bits", "8"),
        ("stats", "--axis", "last", "--unsigned-input", "--exclude", "*.q_*", "--exclude", "*.k_*", "-b", "5"),
        ("stats", "-g", "48", "--indivisible", "channel", "--round-mode", "half_up", "--compute-dtype", "native",
         "--min-ndim", "0"),
        ("stats", "--recipe", "r.toml", "--preset", "linear-only", "-b", "6"),
        ("stats", "--input-min", "-1", "--input-max", "2", "-b", "3"),
        ("sweep",),
        ("sweep", "-b", "3,4", "-g", "16,32", "--estimator", "minmax,percentile", "--percentile", "99.5"),
        ("sweep", "-s", "int4-g32", "-s", "uint8-tensor", "--min-ndim", "0"),
        ("diagnose", "-s", "int4-g32"),
        ("diagnose", "-b", "3", "--max-bits-added", "0.5", "--include", "layers.1.*"),
        ("plan", "--avg-bits", "4.5", "-g", "32"),
        ("plan", "--avg-bits", "4.5", "-g", "32", "--against", "earlier.toml"),
        ("plan", "--avg-bits", "4.5", "--from", "sweep.json"),
        ("plan", "--min-sqnr", "12.5", "--candidates", "int3-g16,int8,float", "--min-bits", "*q_proj*=8",
         "--objective", "worst", "--tie", "none"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_command_that_a_page_names_makes_the_same_page(qdq: Qdq, model: Path, given: tuple[str, ...]) -> None:
    Path("r.toml").write_text('[[rules]]\nmatch = "*.o_proj.weight"\nnum_bits = 4\n')
    if "--against" in given:
        assert qdq("plan", model, "--avg-bits", 3.75, "-g", 32, "-o", "earlier.toml").code == 0
    if "--from" in given:
        assert qdq("sweep", model, "-b", "3,4,6", "-g", 32, "--report", "sweep.json").code == 0
    output = ("-o", "plan.toml", "--overwrite") if given[0] == "plan" else ()
    assert qdq(given[0], model, *given[1:], *output, "--report", "a.html", "--format", "none").code == 0
    first = Path("a.html").read_text()
    words = made(first)
    assert words[:3] == ["qdq", given[0], "model"]
    more = ("--overwrite",) if output else ()
    assert qdq(*words[1:], *more, "--report", "b.html", "--format", "none").code == 0
    assert Path("b.html").read_text() == first


def test_what_to_do_can_be_typed(qdq: Qdq, model: Path) -> None:
    Path("b.toml").write_text("[limits]\nmin_sqnr_db = 17\n")
    assert qdq("check", model, "-s", "int4-tensor", "--budget", "b.toml", "--report", "a.html").code == 1
    page = unescape(Path("a.html").read_text())
    section = page[page.index("What to do") : page.index("SQNR by layer")]
    diagnose, plan, check = map(shlex.split, re.findall(r"<code>(qdq .*?)</code>", section))
    assert qdq(*diagnose[1:]).code == 0
    assert qdq(*plan[1:]).code == 0
    assert qdq("check", model, "--recipe", "plan.toml", "--budget", "b.toml").code == 0
    assert qdq(*check[1:], "--budget", "b.toml").code == 0
    waiver = re.findall(r"<code>(\[\[waivers\]\].*?)</code>", section, re.DOTALL)[0]
    Path("b.toml").write_text(f"[limits]\nmin_sqnr_db = 17\n{waiver.replace('YYYY-MM-DD', '2999-01-01')}\n")
    assert qdq("check", model, "-s", "int4-tensor", "--budget", "b.toml").code == 0


def test_the_page_of_a_plan_has_curve_matrix_and_decisions(qdq: Qdq, model: Path) -> None:
    asked = ("--avg-bits", 4.5, "-g", 32, "--explain", "layers.0.o_proj.weight", "--report", "p.html", "-o", "p.toml")
    assert qdq("plan", model, *asked).code == 0
    page = Path("p.html").read_text()
    assert page.count('class="point faint"') == 6, "a point for each candidate"
    assert page.count('class="point chosen"') == 1
    assert page.count('class="line"') == 1
    assert '<table class="matrix">' in page
    assert "layers.0.o_proj.weight" in page
    assert "<h2>Candidates</h2>" in page


def test_the_page_of_a_diagnosis_has_causes_evidence_and_gains(qdq: Qdq, model: Path) -> None:
    assert qdq("diagnose", model, "-s", "int4-tensor", "--all", "--report", "d.html").code == 0
    page = Path("d.html").read_text()
    assert re.search(r"<strong>wrong-axis</strong>: --axis 1 gains \d+\.\d\d dB", page)
    assert re.search(r"<code>--group-size 16</code></th><td class=\"number\">\+\d+\.\d\d dB</td>", page)
    assert '"title":"evidence","form":"prose"' in page


@pytest.mark.parametrize("command", ["stats", "sweep", "diagnose", "plan"])
def test_every_page_is_alive_in_a_browser(qdq: Qdq, model: Path, tmp_path: Path, command: str) -> None:
    more = {"plan": ("--avg-bits", 5, "-g", 32, "-o", "p.toml"), "diagnose": ("--all",)}
    assert qdq(command, model, *more.get(command, ()), "--report", "a.html").code == 0
    with chromium(tmp_path / "profile") as browser:
        browser.open(tmp_path / "a.html")
        count = browser.run("document.querySelectorAll('#rows tbody tr').length")
        assert count == (4 if command == "plan" else 8)
        for _ in range(2):
            browser.run("document.querySelector('thead button').click()")
        names = browser.run("[...document.querySelectorAll('#rows tbody th')].map(e => e.textContent)")
        assert names == sorted(names, reverse=True)
        assert browser.errors == []
