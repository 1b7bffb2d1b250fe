"""Every malformed and awkward file of the corpus beside the project, through `qdq run`, `stats`, `inspect`,
`check` and `compare`.

What each case must give is in the corpus's own manifest. Cases that the layout of an output must keep are compared too.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CORPUS = Path(__file__).parents[2].parent / "shared" / "badinputs" / "make_bad_inputs.py"
SEEN_IN_HEADERS_ONLY = {"npz_deflate_damaged"}
"""`inspect` reads no data, so these look well to it."""
WITHOUT_ELEMENTS = {"st_ok_zero_size", "npy_ok_zero_size"}
"""`check` gives no verdict on them: a budget that judged nothing is exit code 2."""
COPIED = {"npz_member_object"}
"""Refused when the corpus was made; now a member of Python objects is copied beside the arrays, never loaded."""

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not beside the project")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, str(CORPUS), str(folder)], check=True, capture_output=True)
    return folder, [case for case in cases_of(folder) if "non_root" not in (case.get("requires") or ())]


def cases_of(folder: Path) -> list[dict[str, Any]]:
    """The manifest's cases, with what was decided since it was written."""
    cases = json.loads((folder / "manifest.json").read_text())["cases"]
    return [case | {"expect": "ok"} if case["id"] in COPIED else case for case in cases]


def problems_of(case: dict[str, Any], code: int, stderr: str) -> list[str]:
    expected = [0] if case["expect"] == "ok" else case.get("codes") or [3]
    problems = [] if code in expected else [f"exit code {code}, expected one of {expected}"]
    if case["expect"] == "ok":
        return problems
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    if len(errors) != 1 or "Traceback" in stderr:
        problems.append(f"not one error line: {stderr[:200]!r}")
    elif case.get("names") and not any(name in errors[0] for name in case["names"]):
        problems.append(f"does not name {case['names']}: {errors[0][:200]!r}")
    return problems


@pytest.mark.parametrize("command", ["run", "stats", "inspect", "check", "compare"])
def test_every_case_gets_what_the_manifest_says(
    qdq: Any,
    corpus: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    command: str,
) -> None:
    folder, cases = corpus
    assert len(cases) > 300
    budget = tmp_path_factory.mktemp("budget") / "budget.toml"
    budget.write_text("allow_nonfinite = true\n[limits]\nmin_sqnr_db = -10_000\n")
    found = []
    for case in cases:
        if command == "inspect" and case["id"] in SEEN_IN_HEADERS_ONLY:
            continue
        source = folder / case["input"]
        output = tmp_path / f"out{source.suffix}"
        more = {"run": ["-o", output], "check": ["--budget", budget], "compare": [source]}
        arguments = [command, source, *more.get(command, [])]
        result = qdq(*arguments, "--format", "none")
        if command == "check" and case["id"] in WITHOUT_ELEMENTS:
            assert (result.code, list(tmp_path.iterdir())) == (2, [])
            continue
        problems = problems_of(case, result.code, result.err)
        if case["expect"] == "error" and list(tmp_path.iterdir()):
            problems.append(f"left {[path.name for path in tmp_path.iterdir()]}")
        found += [f"{case['id']}: {problem}" for problem in problems]
        for left in tmp_path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert found == []
