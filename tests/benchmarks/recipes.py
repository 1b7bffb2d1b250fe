"""How long it takes to say what a recipe does to 100,000 tensors, whole processes, from the headers alone.

    python tests/benchmarks/recipes.py [--tensors 100000] [--rounds 5]

The checkpoint is one of many experts, in sparse files; the recipe has rules with globs, a regular expression and plain
names, and one more time a rule for each of 10,000 tensors.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

PARTS = ("gate_proj", "up_proj", "down_proj")
RECIPE = """
schema = 1
[defaults]
num_bits = 8
axis = 0
min_ndim = 2
[[rules]]
match = "*.mlp.experts.*.weight"
num_bits = 4
group_size = 128
[[rules]]
match = "*.down_proj.weight"
num_bits = 6
[[rules]]
match = ["re:model\\\\.layers\\\\.(0|1)\\\\..*proj\\\\.weight", "*.experts.0.*"]
estimator = "mse"
[[rules]]
match = "*norm*"
skip = "norm"
[[rules]]
match = ["*embed*", "lm_head.weight"]
skip = "embedding or head"
"""


def write_checkpoint(path: Path, num_tensors: int) -> list[str]:
    """Write a sparse file; returns the names of its matrices."""
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    shapes = [[512, 256], [512, 256]]
    layer = 0
    while len(names) < num_tensors:
        prefix = f"model.layers.{layer}"
        names += [f"{prefix}.input_layernorm.weight", *(f"{prefix}.self_attn.{p}_proj.weight" for p in "qkvo")]
        names += [f"{prefix}.mlp.experts.{e}.{part}.weight" for e in range(256) for part in PARTS]
        shapes += [[256], *[[256, 256]] * 4, *[[256, 256]] * (256 * len(PARTS))]
        layer += 1
    header, end = {}, 0
    for name, shape in zip(names[:num_tensors], shapes[:num_tensors], strict=True):
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return names[:num_tensors]


def seconds(rounds: int, *arguments: object) -> float:
    """Return the median time of a `qdq` process."""
    times = []
    for _ in range(rounds):
        began = perf_counter()
        command = [sys.executable, "-m", "qdqcli", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        times.append(perf_counter() - began)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="qdq-recipes-") as root:
        model, recipe, long_recipe = (Path(root) / name for name in ("m.safetensors", "r.toml", "long.toml"))
        names = write_checkpoint(model, options.tensors)
        recipe.write_text(RECIPE)
        experts = [name for name in names if ".experts." in name]
        rules = [f'[[rules]]\nmatch = "{name}"\nnum_bits = 5\n' for name in experts[:: max(len(experts) // 10_000, 1)]]
        long_recipe.write_text(RECIPE + "".join(rules))
        one = experts[len(experts) // 2]
        for what, arguments in {
            "recipe explain, a table": ("recipe", "explain", recipe, model),
            "recipe explain, JSON": ("recipe", "explain", recipe, model, "--format", "json"),
            "recipe explain, one tensor": ("recipe", "explain", recipe, model, one),
            "recipe lint": ("recipe", "lint", recipe, model),
            f"recipe lint, {len(rules):,} rules more": ("recipe", "lint", long_recipe, model),
            "inspect --recipe, a table": ("inspect", model, "--recipe", recipe),
            "inspect without a recipe": ("inspect", model),
        }.items():
            print(f"{what:<40} {seconds(options.rounds, *arguments):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
