"""Outputs and statistics of a corpus, written down: what a change of the kernels must leave as it is.

    python -m tests.safety_net write BEFORE.json
    python -m tests.safety_net write AFTER.json
    python -m tests.safety_net compare BEFORE.json AFTER.json

The corpus holds every dtype, tails, NaN, tiny and huge scales, zeros, many small tensors, and tensors of several
blocks; each goes through every layout and setting, from files and in memory. Outputs are kept as digests and must be
equal to the byte. Statistics must be equal to the bit, or with `--within X` to that relative difference: for a change
of the order of addition.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from qdqcli import quantize_and_measure
from qdqcli.cli.main import run
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.metrics import METRICS

DTYPES = {"F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
SETTINGS = [
    [],
    ["--num-bits", "4", "--round-mode", "HALF_UP"],
    ["--num-bits", "3", "--unsigned-input", "--compute-dtype", "native"],
    ["--num-bits", "24", "--narrow-range", "--axis", "0", "--min-ndim", "2"],
    ["--axis", "0", "--min-ndim", "2", "--per-channel"],
    ["--axis", "last", "--min-ndim", "2", "--compute-dtype", "native"],
    ["--axis", "1", "--min-ndim", "2", "--num-bits", "6", "--round-mode", "HALF_UP"],
    ["--group-size", "32", "--min-ndim", "2", "--ragged-groups"],
    ["--group-size", "24", "--min-ndim", "2", "--ragged-groups", "--num-bits", "4", "--unsigned-input"],
    ["--group-size", "4", "--min-ndim", "2", "--ragged-groups"],
    ["--input-min", "-0.01", "--input-max", "0.02"],
    ["--input-min", "-1e-7", "--input-max", "1e-7", "--num-bits", "5"],
    ["--input-min", "-0.03", "--input-max", "0.01", "--axis", "0", "--min-ndim", "2"],
    ["--estimator", "mse", "--num-bits", "4"],
    ["--estimator", "percentile", "--percentile", "99", "--axis", "0", "--min-ndim", "2"],
    ["--threads", "1", "--max-memory", "16MiB", "--group-size", "128", "--min-ndim", "2", "--ragged-groups"],
]
IN_MEMORY = [
    QuantSpec(),
    QuantSpec(num_bits=4, round_mode=RoundMode.HALF_UP, axis=0),
    QuantSpec(axis=1, compute_dtype=ComputeDType.FLOAT32),
    QuantSpec(group_size=32, ragged_groups=True),
    QuantSpec(given_range=(-0.01, 0.02), range_given=True),
]


def corpus() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """File names and their tensors."""
    shapes = [(70_001,), (67, 1056), (5, 7, 3, 3), (131, 1000), (9,), (1,), (2, 300, 13)]
    for dtype, kind in DTYPES.items():
        rng = np.random.default_rng(7)
        tensors: dict[str, np.ndarray] = {}
        with np.errstate(all="ignore"):
            for i, shape in enumerate(shapes):
                normal = rng.standard_normal(shape) * 0.02
                scales = {"normal": 1.0, "tiny": 1e-20, "subnormal": 1e-39, "huge": 1e21, "half": 1e-5}
                for name, scale in scales.items():
                    tensors[f"{name}.{i}"] = (normal * scale).astype(kind)
                tensors[f"zeros.{i}"] = np.zeros(shape, kind)
                tensors[f"pruned.{i}"] = (normal * (rng.random(shape) < 0.3)).astype(kind)
                for name, numbers in {"nan": [np.nan], "infinite": [np.inf, -np.inf, np.nan]}.items():
                    special = normal.astype(kind).reshape(-1)
                    special[:: special.size // 3 + 1] = np.resize(np.array(numbers).astype(kind), 3)[
                        : len(special[:: special.size // 3 + 1])
                    ]
                    tensors[f"{name}.{i}"] = special.reshape(shape)
                mixed = np.ldexp(rng.uniform(-1, 1, shape), rng.integers(-30, 5, shape))
                tensors[f"mixed.{i}"] = mixed.astype(kind)
        yield f"{dtype}.safetensors", tensors
        small = {f"{i:04}": (rng.standard_normal((4, 64)) * 0.02).astype(kind) for i in range(100)}
        small |= {f"s{i:04}": (rng.standard_normal(1 + i) * 0.02).astype(kind) for i in range(40)}
        yield f"small-{dtype}.safetensors", small
    rng = np.random.default_rng(8)
    large = {d: (rng.standard_normal((1200, 1001)) * 0.02).astype(k) for d, k in DTYPES.items()}
    yield "large.safetensors", large | {"F16 scattered": np.zeros((700_000,), np.float16)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(target: Path, only: str) -> None:
    found: dict[str, Any] = {}
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name, tensors in corpus():
            if only not in name:
                continue
            source = folder / name
            save_file(tensors, source)
            for settings in SETTINGS:
                output, report = folder / "out.safetensors", folder / "report.json"
                common = ["--min-ndim", "0", *settings, "--format", "none", "--quiet"]
                code = run(["run", str(source), "-o", str(output), "--overwrite", "--report", str(report), *common])
                key = f"{name} {' '.join(settings)}"
                if code != 0:
                    found[key] = {"code": code}
                    continue
                found[key] = {"output": digest(output), "tensors": statistics(report)}
                report.unlink()
                assert run(["stats", str(source), "--report", str(report), *common]) == 0
                found[f"stats {key}"] = {"tensors": statistics(report)}
                report.unlink()
                if not settings:
                    compared = ["compare", str(source), str(output), "--report", str(report), "--format", "none", "-q"]
                    assert run(compared) == 0
                    found[f"compare {key}"] = {"tensors": statistics(report)}
                    report.unlink()
            source.unlink()
            for tensor, x in tensors.items():
                for spec in IN_MEMORY:
                    if x.ndim >= 2 or (spec.axis < 1 and spec.group_size is None):
                        y, sums = quantize_and_measure(x, spec)
                        metrics = {metric: METRICS[metric].value(sums) for metric in METRICS}
                        text = hashlib.sha256(y.tobytes()).hexdigest()
                        found[f"memory {name} {tensor} {spec}"] = {"output": text, "tensors": {tensor: metrics}}
            print(name, len(found), file=sys.stderr)
    target.write_text(json.dumps(found))


def statistics(report: Path) -> dict[str, Any]:
    """The numbers of each tensor of a report, and of its channels."""
    tensors: dict[str, Any] = {}
    for row in json.loads(report.read_text())["tensors"]:
        tensors[row["name"]] = {key: value for key, value in row.items() if key not in ("file", "candidate")}
    return tensors


def numbers(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON value, by its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(f"{prefix}/{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from numbers(f"{prefix}/{i}", item)
    else:
        yield prefix, value


def compare(before: Path, after: Path, within: float) -> int:
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    bad, worst = 0, {}
    for case in sorted(old.keys() | new.keys()):
        a, b = dict(numbers("", old.get(case))), dict(numbers("", new.get(case)))
        size = {path.replace("abs_", ""): value for path, value in a.items() if "mean_abs_error" in path}
        for path in sorted(a.keys() | b.keys()):
            x, y = a.get(path), b.get(path)
            if x == y:
                continue
            scale = size.get(path, x)
            numeric = isinstance(x, float) and isinstance(y, float)
            apart = abs(x - y) / abs(scale) if numeric and scale else math.inf
            metric = next(part for part in reversed(path.split("/")) if not part.isdigit())
            worst[metric] = max(worst.get(metric, (0.0, "")), (apart, f"{case}{path}: {x} {y}"))
            if apart > within:
                bad += 1
                if bad <= 20:
                    print(f"{case}{path}: {x} is now {y}")
    for metric, (apart, where) in worst.items():
        print(f"{metric:<20} at most {apart:.1e} apart: {where[:200]}")
    print(f"{len(new)} cases, {bad} differences")
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("target", type=Path)
    writing.add_argument("--only", default="", help="files whose name has this")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--within", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.target, arguments.only)
        return 0
    return compare(arguments.before, arguments.after, arguments.within)


if __name__ == "__main__":
    sys.exit(main())
