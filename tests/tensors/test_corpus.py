"""The corpus of malformed and awkward checkpoints, where it lies beside the project."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qdqcli.errors import InputError
from qdqcli.output.tree import OutputTree
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.output.test_tree import copy_all
from tests.tensors.files import read_all, read_shard

MAKE = Path(__file__).parents[2].parent / "shared" / "badinputs" / "make_bad_inputs.py"
pytestmark = pytest.mark.skipif(not MAKE.exists(), reason="the corpus is not beside the project")

Case = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "bad"
    subprocess.run([sys.executable, str(MAKE), str(folder)], check=True, capture_output=True)
    return folder


def cases(corpus: Path, expect: str) -> Iterator[Case]:
    for case in json.loads((corpus / "manifest.json").read_text())["cases"]:
        if case["id"] == "npz_member_object":  # refused when the corpus was made; now copied beside the arrays
            case["expect"] = "ok"
        nothing_to_quantize = case.get("codes") == [2]
        needs_user = case.get("requires") == "non_root" and os.geteuid() == 0
        if (case["expect"] == "error" and not nothing_to_quantize) == (expect == "error") and not needs_user:
            yield case


def test_every_error_names_the_file(corpus: Path) -> None:
    failures = []
    for case in cases(corpus, "error"):
        try:
            read_all(open_checkpoint(corpus / case["input"]))
        except InputError as error:
            message = str(error)
            if not (any(name in message for name in case["names"]) and message.isprintable() and ": " in message):
                failures.append((case["id"], message))
        else:
            failures.append((case["id"], "opened"))
    assert failures == []


def test_every_valid_case_is_read_and_rewritten(corpus: Path, tmp_path: Path) -> None:
    for i, case in enumerate(cases(corpus, "ok")):
        checkpoint = open_checkpoint(corpus / case["input"])
        output = tmp_path / f"{i}{Path(case['input']).suffix}"
        with OutputTree([checkpoint], output) as tree:
            copy_all(tree, [checkpoint])
            tree.commit()
        for shard, copied in zip(checkpoint.shards, open_checkpoint(output).shards, strict=True):
            if case["kind"] == "npz":  # other bytes may say the same: zip64 fields, flags, where names are written
                assert read_shard(copied, 1 << 20) == read_shard(shard, 1 << 20), case["id"]
            else:
                assert copied.path.read_bytes() == shard.path.read_bytes(), case["id"]
