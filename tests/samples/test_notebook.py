"""The notebook runs, its outputs are those of this version, and it stays small."""

import json
import shutil
from pathlib import Path

import pytest

from tests.samples.notebook import cells_of, run

NOTEBOOK = Path(__file__).parents[2] / "sample_data" / "tour.ipynb"


def test_the_notebook_runs_and_gives_the_outputs_that_it_has(tmp_path: Path) -> None:
    shutil.copytree(NOTEBOOK.parent / "tiny-llama", tmp_path / "tiny-llama")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    stored = {cell["id"]: cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"}
    ran = 0
    for cell, outputs in run(notebook, tmp_path):
        ran += 1
        if not cell["metadata"].get("tags"):  # another version of that package may lay out otherwise
            for output in (*outputs, *stored[cell["id"]]):
                output.pop("execution_count", None)
            assert outputs == stored[cell["id"]], "python -m tests.samples.notebook sample_data/tour.ipynb"
    assert ran == len(cells_of(notebook)) >= 10
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama"], "nothing is left beside the notebook"


def test_the_notebook_is_small_and_shows_every_function() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 60_000
    for name in ("measure", "sweep", "compare", "check", "plan", "diagnose", "run"):
        assert f"qdqcli.{name}(" in text
    assert "to_pandas()" in text
    assert text.count('"text/html"') >= 5


def test_a_cell_that_needs_a_missing_package_is_left_out() -> None:
    cells = [{"cell_type": "code", "metadata": {"tags": [tag]}} for tag in ("json", "no_such_package")]
    assert cells_of({"cells": cells}) == cells[:1]


def test_a_cell_that_fails_fails_the_run(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "metadata": {}, "source": ["1 / 0"]}
    with pytest.raises(ZeroDivisionError):
        list(run({"cells": [cell]}, tmp_path))
