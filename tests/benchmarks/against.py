"""Processor time of this checkout against another one, each in processes of its own, in turn.

    git worktree add /tmp/before REVISION
    python tests/benchmarks/against.py /tmp/before [--rounds 5]

Uses only what every version has: `quantize_and_measure`, `qdq stats` on a BF16 file, `stats` and `run` on many shards.
The least of several times counts. A processor that others use too makes both sides slower, and the ratios smaller.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

WORK = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from qdqcli import quantize_and_measure
from qdqcli.cli.main import run
from qdqcli.op.spec import QuantSpec

repeats, path = int(sys.argv[1]), sys.argv[2]
LAYOUTS = {"one range": {}, "axis 0": {"axis": 0}, "last axis": {"axis": 1}, "groups of 64": {"group_size": 64}}
works = {}
for rows, name in ((256, "F32, 4 MB in memory"), (4096, "F32, 64 MB in memory")):
    x = np.random.default_rng(0).standard_normal((rows, 4096), np.float32) * np.float32(0.02)
    for layout, settings in LAYOUTS.items():
        spec = QuantSpec(**settings)
        works[f"{name}, {layout}"] = lambda x=x, spec=spec: quantize_and_measure(x, spec)
for layout, settings in LAYOUTS.items():
    options = [f"--{k.replace('_', '-')}={v}" for k, v in settings.items()]
    command = ["stats", path, "--min-ndim", "2", *options, "--format", "none", "--quiet"]
    works[f"BF16 file, {layout}"] = lambda command=command: run(command)
folder, output = Path(path).with_name("shards"), Path(path).with_name(f"out-{os.getpid()}")
for layout, settings in (("groups of 64", ["--group-size=64"]), ("one range", [])):
    common = [str(folder), *settings, "--num-bits", "4", "--format", "none", "--quiet"]
    works[f"40 shards, stats, {layout}"] = lambda common=common: run(["stats", *common])
    works[f"40 shards, run, {layout}"] = lambda common=common: run(["run", "-o", str(output), "--overwrite", *common])
best = {}
for turn in range(repeats + 1):
    for name, work in works.items():
        began = time.process_time()
        work()
        if turn:
            best[name] = min(best.get(name, 1e9), time.process_time() - began)
print(json.dumps(best))
"""


def times_of(checkout: Path, repeats: int, path: Path, cache: str) -> dict[str, float]:
    """Return the least seconds of each work in one process."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "QDQ_CACHE_DIR": cache}
    command = [sys.executable, "-c", WORK, str(repeats), str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=checkout).stdout
    found: dict[str, float] = json.loads(text.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    best: list[dict[str, float]] = [{}, {}]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        x = np.random.default_rng(0).standard_normal((4096, 4096), np.float32) * np.float32(0.02)
        save_file({"x": x.astype(ml_dtypes.bfloat16)}, path)
        (path.parent / "shards").mkdir()
        for k in range(40):  # one large tensor each, and many small ones
            small = {f"{k}.{n}.small": x[n : n + 2, :256].copy() for n in range(100)}
            save_file({f"{k}.large": x[:128] + k, **small}, path.parent / "shards" / f"model-{k:02}.safetensors")
        for _ in range(options.rounds):
            for side, checkout in enumerate((options.before.resolve(), Path(__file__).resolve().parents[2])):
                for name, seconds in times_of(checkout, 5, path, folder).items():
                    best[side][name] = min(best[side].get(name, seconds), seconds)
    print(f"{'':<36}  before     now  ms, of processor time")
    for name, before in best[0].items():
        now = best[1][name]
        print(f"{name:<36} {before * 1e3:7.2f} {now * 1e3:7.2f}  {before / now:5.2f} x")


if __name__ == "__main__":
    main()
