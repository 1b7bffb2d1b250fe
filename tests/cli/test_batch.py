"""Several inputs at once: a row for each, and reports of their own."""

import json
from pathlib import Path

import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import sample, write_safetensors


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        folder = tmp_path / "hub" / name
        tensors = {f"layer.{k}.w": sample((4, 6), seed=2 * number + k) for k in range(number + 1)}
        write_safetensors(folder / "model.safetensors", tensors)
    return tmp_path / "hub"


def input_rows(out: str) -> dict[str, list[str]]:
    """Cells of the table of inputs, by the input's last part."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.replace("| ", "").startswith("input "))
    rows = [line.replace("|", " ").replace("`", " ").split() for line in lines[start + 2 : start + 4]]
    return {row[0].rpartition("/")[2]: row[1:] for row in rows}


@pytest.mark.parametrize("name", ["table", "markdown"])
def test_a_row_for_each_input(qdq: Qdq, hub: Path, name: str) -> None:
    out = qdq("stats", hub / "a", hub / "b", "--format", name).out
    rows = input_rows(out)
    alone = {key: qdq("stats", hub / key, "--format", "json").report["summary"] for key in ("a", "b")}
    assert list(rows) == ["a", "b"]
    for key, cells in rows.items():
        tensors, elements, bits, sqnr = cells[:4]
        assert (int(tensors), int(elements)) == (alone[key]["num_quantized"], alone[key]["num_elements"])
        assert (bits, sqnr) == (f"{alone[key]['bits_per_weight']:.3f}", f"{alone[key]['sqnr_db']:.2f}")
    assert "\ninput " not in qdq("stats", hub / "b").out
    assert qdq("stats", hub / "a", hub / "b", "--by", "input").out.count("\ninput ") == 0


@pytest.mark.parametrize("command", [("stats",), ("check", "--budget", "b.toml"), ("run", "-o", "out")])
def test_a_report_for_each_input(
    qdq: Qdq, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(hub.parent)
    (tmp_path / "b.toml").write_text("[limits]\nmin_sqnr_db = 1\n")
    name, *options = command
    reports = ("--report", "{name}.json", "--report", "{name}.html", "--report", "all.json")
    outcome = qdq(name, "hub/*", *options, *reports)
    assert outcome.code == 0, outcome.err
    whole = json.loads((tmp_path / "all.json").read_text())
    assert whole["inputs"] == ["hub/a", "hub/b"]
    for key in ("a", "b"):
        own = json.loads((tmp_path / f"{key}.json").read_text())
        alone = qdq("stats", f"hub/{key}", "--format", "json").report
        for row in own["tensors"]:
            del row["histograms"]  # for the page
            row.pop("bound", None)  # of a verdict
        assert own["inputs"] == [f"hub/{key}"]
        assert (own["tensors"], own["summary"]) == (alone["tensors"], alone["summary"])
        assert (tmp_path / f"{key}.html").exists()
    assert not list(tmp_path.glob("{name}*"))


def test_a_verdict_for_each_input(qdq: Qdq, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub.parent)
    (tmp_path / "b.toml").write_text('[limits]\nmin_sqnr_db = 1\n[[tensors]]\nmatch = "layer.1.w"\nmin_sqnr_db = 200\n')
    assert qdq("check", "hub/*", "--budget", "b.toml", "--report", "{name}.json").code == 1
    passed = {key: json.loads((tmp_path / f"{key}.json").read_text())["verdict"]["passed"] for key in ("a", "b")}
    assert passed == {"a": True, "b": False}


def test_lists_for_each_input(qdq: Qdq, hub: Path, tmp_path: Path) -> None:
    assert qdq("inspect", hub / "a", hub / "b", "--report", tmp_path / "{name}.json").code == 0
    for key, count in (("a", 1), ("b", 2)):
        assert len(json.loads((tmp_path / f"{key}.json").read_text())["tensors"]) == count


def test_reports_that_would_replace_one_another_or_an_input_are_refused(qdq: Qdq, hub: Path, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "c" / "a" / "model.safetensors", {"w": sample((4, 6))})
    outcome = qdq("stats", hub / "a", tmp_path / "c" / "a", "--report", tmp_path / "{name}.json")
    assert (outcome.code, "2 inputs are called 'a'" in outcome.error) == (2, True)
    assert qdq("stats", hub / "a", tmp_path / "c" / "a", "--report", tmp_path / "one.json").code == 0
    refused = qdq("stats", hub / "a", hub / "b", "--report", tmp_path / "{name}.json", "--report", tmp_path / "b.json")
    assert refused.code == 2
    assert not (tmp_path / "a.json").exists()


def test_a_stored_report_shows_the_same_inputs(qdq: Qdq, hub: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    out = qdq("stats", hub / "a", hub / "b", "--report", path).out
    assert qdq("render", path).out == out
    refused = qdq("render", path, "--report", tmp_path / "{name}.csv")
    assert (refused.code, "measure again" in refused.error) == (2, True)
    data = json.loads(path.read_text())
    del data["by_input"]
    path.write_text(json.dumps(data))
    assert "\ninput " not in qdq("render", path).out


def test_an_input_that_is_given_twice_counts_once(qdq: Qdq, tiny: Path) -> None:
    (tiny.parent / "link.safetensors").symlink_to(tiny)
    outcome = qdq("stats", tiny, tiny.parent / "." / tiny.name, tiny.parent / "link.safetensors", "--format", "json")
    assert outcome.report["inputs"] == [str(tiny)]
    assert outcome.err.count("given before; it counts once") == 2
    assert outcome.report["summary"] == qdq("stats", tiny, "--format", "json").report["summary"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{nam}.json", "{nam} is not a placeholder; {name} is the input's name"),
        ("{}.json", "{} is not a placeholder"),
        ("{name}/r.json", "{name} belongs into the file's name"),
    ],
)
def test_a_misspelt_placeholder_is_refused(qdq: Qdq, tiny: Path, tmp_path: Path, name: str, message: str) -> None:
    outcome = qdq("stats", tiny, "--report", tmp_path / name)
    assert outcome.code == 2
    assert message in outcome.error
